"""On the driver: finds and checks the run to serve, and sends its fixed vectors to every machine."""

import atexit
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from pyspark.sql import SparkSession
from safetensors.torch import save_file
from torch import Tensor

from mamdr_core.config.training import TrainSettings
from mamdr_core.lake.champion import find_run
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.serving.served import Served
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.own_code import check_served
from mamdr_core.training.package_shapes import check_shapes, read_metadata_and_shapes
from mamdr_core.training.trained_run import check_mixed, config_of


def find_served(lake: Lake, run_id: str) -> Served:
    """Find the run to serve, and check its package.

    Args:
        lake: the lake in which it was recorded.
        run_id: an id; champion: the promoted run; empty: the newest successful run.

    Raises:
        MamdrError: the run or its package does not exist, the package is damaged or belongs to another lake, or its
            model is a plugin that cannot be imported.
    """
    row = find_run(lake, run_id)
    package = str(row["package"])
    facts, shapes = read_metadata_and_shapes(package)
    config, sizes = config_of(facts.config, package), facts.pinned["sizes"]
    numeric = {name: (mean, deviation) for name, (mean, deviation) in facts.pinned["numeric"].items()}
    check_mixed(config, facts.metrics, facts.has_mixed, package)
    check_served(config, facts.metrics, package)
    check_shapes(package, config, sizes, shapes)
    for name in ("user", "item", "domain"):
        if (count := lake.read(f"{name}s").count()) < sizes[name]:
            raise MamdrError(
                f"package {package} was trained on another lake than {lake.root}: it has {sizes[name]} {name}s, "
                f"the lake {count}"
            )
    files = tuple(sorted(facts.files))
    quantiles = facts.pinned.get("quantiles", {})
    return Served(row["run_id"], package, files, config, facts.pinned["versions"], sizes, numeric, quantiles)


def read_vectors(lake: Lake, served: Served, train: TrainSettings) -> dict[str, Tensor]:
    """The fixed vectors that a run was trained with, by feature, float32 [vocabulary + 1, size].

    Args:
        lake: the lake in which the run was recorded.
        served: the run.
        train: the reading job's settings of the reader and its memory.

    Raises:
        MamdrError: the lake holds no vectors of that name and length, or their files were deleted.
    """
    fixed = [feature for feature in served.features if feature.kind == "vector" and not feature.trainable]
    tables: dict[str, str] = {feature.of: f"{feature.of}_features" for feature in fixed}
    files = {
        name: tuple(sorted(lake.read(table, served.versions[table]).inputFiles())) for name, table in tables.items()
    }
    pinned = PinnedExamples(dict(served.versions), (), (), {}, dict(served.sizes), files, {})
    no_domains = np.zeros(0, dtype=np.bool_)
    return Share(pinned, fixed, no_domains, train.host_memory, train.scratch, train.reader).vectors()


def send_vectors(spark: SparkSession, vectors: Mapping[str, Tensor]) -> str:
    """Send fixed vectors to every machine as a file, which its processes map into memory.

    Returns:
        The file's name, for `mamdr_core.serving.scorer.open_scorer`; empty if there are no vectors.
    """
    if not vectors:
        return ""
    return send_file(spark, "vectors", ".safetensors", lambda file: save_file(dict(vectors), file))


def send_file(spark: SparkSession, name: str, suffix: str, write: Callable[[Path], None]) -> str:
    """Write a file and send it to every machine, including those whose executors start later; returns its name.

    Args:
        spark: the session.
        name: part of the file's name.
        suffix: suffix of the file's name.
        write: writes the file at a path.
    """
    folder = Path(mkdtemp(prefix=f"mamdr-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # executors that start later fetch the file too
    file = folder / f"{folder.name}{suffix}"
    write(file)
    spark.sparkContext.addFile(str(file))
    return file.name
