"""What one Delta version of the examples holds, resolved on the driver: files, domains, rows, vocabulary sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
from mamdr_core.lake.core.features import names_in_examples
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.quantiles import cut_features, noted_bounds
from mamdr_core.lake.examples.versions import newest_versions, still_there
from mamdr_core.lake.examples.windows import Limits, read_window, window_at
from mamdr_core.lake.settings import LakeSettings
from schemas import SAMPLE_WEIGHT, SPLITS, feature_vocabulary

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class PinnedFile:
    """A live file of the pinned version.

    Attributes:
        url: where it lies.
        split: the split of its rows.
        domains: indices of the domains that it holds, ascending, int32 [d].
        rows: of each of them, int64 [d].
        days: first and last day of the rows that count (days since 1970); None: all do.
    """

    url: str
    split: str
    domains: NDArray[np.int32]
    rows: NDArray[np.int64]
    days: tuple[int, int] | None = None


@dataclass(frozen=True)
class PinnedExamples:
    """One version of the examples.

    Attributes:
        versions: Delta version of every table that was read.
        files: live files.
        domain_ids: raw id by domain index.
        counts: by split, rows by domain, int64 [n].
        sizes: vocabulary size by id column; of a bag or sequence that shares a table, that of the table.
        vector_files: by "user" and "item", files of the fixed vectors.
        numeric: by numeric feature, mean and standard deviation over the train split.
        has_weights: whether rows have weights.
        quantiles: by feature with `quantiles`, the bounds of its ranges.
    """

    versions: dict[str, int]
    files: tuple[PinnedFile, ...]
    domain_ids: tuple[str, ...]
    counts: dict[str, NDArray[np.int64]]
    sizes: dict[str, int]
    vector_files: dict[str, tuple[str, ...]]
    numeric: dict[str, tuple[float, float]]
    has_weights: bool = False
    quantiles: dict[str, list[float]] = field(default_factory=dict)

    def positions(self) -> NDArray[np.int64]:
        """By domain, where its training rows begin in the files, int64 [n]; near numbers are in the same row groups."""
        files = [file for file in self.files if file.split == "train"]
        first_n = np.full(len(self.domain_ids), len(files))
        for number, file in reversed(list(enumerate(files))):
            first_n[file.domains] = number
        return first_n * len(first_n) + np.arange(len(first_n))


def pin_examples(
    spark: SparkSession,
    where: str | LakeSettings,
    features: Sequence[Feature],
    versions: dict[str, int] | None = None,
    train_days: int = 0,
) -> PinnedExamples:
    """Resolve the newest version of every table that training reads, or the given ones.

    Never lists folders: files that Delta has removed, or another job is writing, are not seen.

    Args:
        spark: the session.
        where: settings of the lake, or its root alone.
        features: the declared features.
        versions: by table; of a version of the examples see `mamdr_core.lake.examples.versions`.
        train_days: see `Window.limits` in `mamdr_core.lake.examples.windows`; 0: the whole window.

    Raises:
        MamdrError: a table is missing, a declared feature is not in the examples, or a version's files were removed.
    """
    lake = Lake(spark, where)
    versions = versions or {"examples": lake.version("examples")} | newest_versions(lake, features)
    with still_there(f"examples version {versions['examples']} of {lake.root}"):
        return _pin(lake, features, versions, train_days)


def _pin(lake: Lake, features: Sequence[Feature], versions: dict[str, int], train_days: int) -> PinnedExamples:
    vectors: set[str] = {feature.of for feature in features if feature.kind == "vector"}
    vocabularies = {name: f"{name}s" for name in ("user", "item", "domain")}
    window = window_at(lake, versions["examples"])
    examples = read_window(lake, versions["examples"], window, train_days)
    missing = [name for name in names_in_examples(features) if name not in examples.columns]
    if missing:
        raise MamdrError(f"examples has no column {', '.join(missing)}: run build_examples again with these features")

    sizes = {column: lake.read(table, versions[table]).count() for column, table in vocabularies.items()}
    sizes |= {f.name: f.buckets or f.quantiles for f in features if f.is_id and not (f.has_vocabulary or f.table)}
    for feature in features:
        if feature.has_vocabulary:
            vocabulary = feature_vocabulary(feature.name)
            sizes[feature.name] = lake.read(vocabulary, versions[vocabulary.name]).count()
    sizes |= {feature.name: sizes[feature.table] for feature in features if feature.table}
    domains = lake.read("domains", versions["domains"]).select("index", "id").orderBy("index").collect()

    days = {split: _numbers(window.limits(split, train_days)) for split in SPLITS}
    files, counts = _count_files(examples, len(domains), days)
    numeric = _moments(examples, [f.name for f in features if f.kind == "numeric"])
    vector_files = {
        of: tuple(sorted(lake.read(f"{of}_features", versions[f"{of}_features"]).inputFiles())) for of in vectors
    }
    ids, has_weights = tuple(row["id"] for row in domains), SAMPLE_WEIGHT in examples.columns
    bounds = noted_bounds(lake, versions["examples"]) if cut_features(features) else {}
    declared = {feature.name for feature in cut_features(features)}
    quantiles = {name: list(of) for name, of in bounds.items() if name in declared}
    return PinnedExamples(versions, files, ids, counts, sizes, vector_files, numeric, has_weights, quantiles)


def _numbers(limits: Limits) -> tuple[int, int] | None:
    """Days since 1970 of the first and last day; None: all days."""
    if limits == (None, None):
        return None
    first, last = limits[0] or date.min, limits[1] or date.max
    return (first - _EPOCH).days, (last - _EPOCH).days


def _count_files(
    examples: DataFrame, domains: int, days: Mapping[str, tuple[int, int] | None]
) -> tuple[tuple[PinnedFile, ...], dict[str, NDArray[np.int64]]]:
    """The live files with their domains, once for each split of their rows, and by split the rows by domain."""
    url = F.col("_metadata.file_path").alias("url")
    of_domains = examples.groupBy("split", "domain", url).agg(F.count("*").alias("rows"))
    held = F.sort_array(F.collect_list(F.struct("domain", "rows"))).alias("held")
    counts = {name: np.zeros(domains, dtype=np.int64) for name in SPLITS}
    files = []
    # A row for each file, as Arrow: at 10^5 domains in 10^3 files a row for each pair would fill the driver.
    for batch in of_domains.groupBy("split", "url").agg(held).toArrow().to_batches():
        edges, pairs = batch.column("held").offsets.to_numpy(), batch.column("held").values
        domain, rows = (pairs.field(name).to_numpy() for name in ("domain", "rows"))
        if len(domain) and not 0 <= domain.min() <= domain.max() < domains:
            raise MamdrError(f"examples have a domain beyond its {domains} values: run build_examples again")
        places = zip(batch.column("split").to_pylist(), batch.column("url").to_pylist(), edges, edges[1:], strict=False)
        for split, name, first, last in places:
            files.append(PinnedFile(name, split, domain[first:last], rows[first:last], days[split]))
            counts[split][domain[first:last]] += rows[first:last]
    return tuple(sorted(files, key=lambda pinned: (pinned.url, pinned.split))), counts


def _moments(examples: DataFrame, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of numeric features over the train split, where they are known."""
    if not names:
        return {}
    known = [F.when(~F.isnan(name), F.col(name)) for name in names]
    asked = [moment(column) for column in known for moment in (F.mean, F.stddev_pop)]
    found = examples.where(F.col("split") == "train").agg(*asked).first() or [None] * len(asked)
    pairs = zip(found[::2], found[1::2], strict=True)
    return {
        name: (float(mean or 0.0), float(deviation or 1.0))
        for name, (mean, deviation) in zip(names, pairs, strict=True)
    }
