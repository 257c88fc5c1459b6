"""What one Delta version of the examples holds, resolved on the driver: files, domains, rows, vocabulary sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
from mamdr_core.lake.tables import Lake
from schemas import SPLITS, feature_vocabulary


@dataclass(frozen=True)
class PinnedFile:
    """A live file of the pinned version.

    Attributes:
        url: where it lies.
        split: the split of its rows.
        domains: indices of the domains that it holds.
        rows: number of its rows.
    """

    url: str
    split: str
    domains: frozenset[int]
    rows: int


@dataclass(frozen=True)
class PinnedExamples:
    """One version of the examples.

    Attributes:
        versions: Delta version of every table that was read.
        files: live files.
        domain_ids: raw id by domain index.
        counts: by split, rows by domain, int64 [n].
        sizes: vocabulary size by id column.
        vector_files: by "user" and "item", files of the fixed vectors.
        numeric: by numeric feature, mean and standard deviation over the train split.
    """

    versions: dict[str, int]
    files: tuple[PinnedFile, ...]
    domain_ids: tuple[str, ...]
    counts: dict[str, NDArray[np.int64]]
    sizes: dict[str, int]
    vector_files: dict[str, tuple[str, ...]]
    numeric: dict[str, tuple[float, float]]


def pin_examples(
    spark: SparkSession, root: str, features: Sequence[Feature], versions: dict[str, int] | None = None
) -> PinnedExamples:
    """Resolve the newest version of every table that training reads, or the given ones.

    Never lists folders: files that Delta has removed, or another job is writing, are not seen.

    Raises:
        MamdrError: a table is missing, or a declared feature is not in the examples.
    """
    lake = Lake(spark, root)
    vectors: set[str] = {feature.of for feature in features if feature.kind == "vector"}
    vocabularies = {name: f"{name}s" for name in ("user", "item", "domain")}
    indexed = [f for f in features if f.kind == "categorical" and not f.buckets]
    names = ["examples", *vocabularies.values(), *(f"{of}_features" for of in sorted(vectors))]
    versions = versions or {name: lake.version(name) for name in names} | {
        feature_vocabulary(f.name).name: lake.version(feature_vocabulary(f.name)) for f in indexed
    }
    examples = lake.read("examples", versions["examples"])
    missing = [f.name for f in features if f.kind != "vector" and f.name not in examples.columns]
    if missing:
        raise MamdrError(f"examples has no column {', '.join(missing)}: run build_examples again with these features")

    sizes = {column: lake.read(table, versions[table]).count() for column, table in vocabularies.items()}
    sizes |= {f.name: f.buckets for f in features if f.kind == "categorical" and f.buckets}
    for feature in indexed:
        vocabulary = feature_vocabulary(feature.name)
        sizes[feature.name] = lake.read(vocabulary, versions[vocabulary.name]).count()
    domains = lake.read("domains", versions["domains"]).select("index", "id").orderBy("index").collect()

    counted = (
        examples.groupBy("split", "domain", F.col("_metadata.file_path").alias("url"))
        .agg(F.count("*").alias("rows"))
        .collect()
    )
    counts = {split: np.zeros(len(domains), dtype=np.int64) for split in SPLITS}
    held: dict[tuple[str, str], dict[int, int]] = {}
    for row in counted:
        counts[row["split"]][row["domain"]] += row["rows"]
        held.setdefault((row["url"], row["split"]), {})[row["domain"]] = row["rows"]
    files = [PinnedFile(url, split, frozenset(rows), sum(rows.values())) for (url, split), rows in sorted(held.items())]
    numeric = {}
    for feature in (f for f in features if f.kind == "numeric"):
        column = F.col(feature.name)
        train = examples.where((F.col("split") == "train") & ~F.isnan(column))
        found = train.agg(F.mean(column), F.stddev_pop(column)).first()
        mean, deviation = (found[0] or 0.0, found[1] or 1.0) if found else (0.0, 1.0)
        numeric[feature.name] = (float(mean), float(deviation))
    vector_files = {
        of: tuple(sorted(lake.read(f"{of}_features", versions[f"{of}_features"]).inputFiles())) for of in vectors
    }
    return PinnedExamples(
        versions, tuple(files), tuple(row["id"] for row in domains), counts, sizes, vector_files, numeric
    )
