"""On the driver: the run that is to serve, found and checked, and its fixed vectors, sent to every machine."""

import atexit
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from pyspark.sql import SparkSession
from safetensors.torch import save_file
from torch import Tensor

from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.tables import Lake
from mamdr_core.serving.served import Served
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.own_code import check_served
from mamdr_core.training.package import read_metadata
from mamdr_core.training.records import find_run
from mamdr_core.training.settings import TrainSettings
from mamdr_core.training.trained import check_mixed, config_of


def find_served(lake: Lake, run_id: str) -> Served:
    """The run that is to serve, its package checked.

    Args:
        lake: that it was recorded in.
        run_id: an id; champion: the run that serves; empty: the newest that ended well.

    Raises:
        MamdrError: no such run or package, a damaged one, one of another lake, or of a user's own structure that cannot
            be imported.
    """
    row = find_run(lake, run_id)
    package = str(row["package"])
    facts = read_metadata(package)
    config, sizes = config_of(facts.config, package), facts.pinned["sizes"]
    numeric = {name: (mean, deviation) for name, (mean, deviation) in facts.pinned["numeric"].items()}
    check_mixed(config, facts.metrics, facts.has_mixed, package)
    check_served(config, facts.metrics, package)
    for name in ("user", "item", "domain"):
        if (held := lake.read(f"{name}s").count()) < sizes[name]:
            raise MamdrError(
                f"package {package} was trained on another lake than {lake.root}: it knows {sizes[name]} {name}s, "
                f"the lake {held}"
            )
    files = tuple(sorted(facts.files))
    quantiles = facts.pinned.get("quantiles", {})
    return Served(row["run_id"], package, files, config, facts.pinned["versions"], sizes, numeric, quantiles)


def read_vectors(lake: Lake, served: Served, train: TrainSettings) -> dict[str, Tensor]:
    """The fixed vectors that a run was trained with, by feature, float32 [vocabulary + 1, size].

    Args:
        lake: that the run was recorded in.
        served: the run.
        train: of the reading job: what reads, and what bounds its memory.

    Raises:
        MamdrError: the lake holds no vectors of that name and length, or their files are gone.
    """
    fixed = [feature for feature in served.features if feature.kind == "vector" and not feature.trainable]
    of: set[str] = {feature.of for feature in fixed}
    tables = {name: f"{name}_features" for name in of}
    files = {
        name: tuple(sorted(lake.read(table, served.versions[table]).inputFiles())) for name, table in tables.items()
    }
    pinned = PinnedExamples(dict(served.versions), (), (), {}, dict(served.sizes), files, {})
    nothing = np.zeros(0, dtype=np.bool_)
    return Share(pinned, fixed, nothing, train.host_memory, train.scratch, train.reader).vectors()


def send_vectors(spark: SparkSession, vectors: Mapping[str, Tensor]) -> str:
    """Send fixed vectors to every machine as a file, which its processes map into memory.

    Returns:
        The file's name, for `mamdr_core.serving.scorer.open_scorer`; empty where there are no vectors.
    """
    if not vectors:
        return ""
    folder = mkdtemp(prefix="mamdr-vectors-")
    # Spark fetches it whenever an executor starts, as long as there is a session.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    name = f"{Path(folder).name}.safetensors"
    save_file(dict(vectors), Path(folder) / name)
    spark.sparkContext.addFile(str(Path(folder) / name))
    return name
