"""One Delta version of the examples, resolved on the driver: its files, domains, row counts and vocabulary sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.lake import LakeSettings
from mamdr_core.lake.core.features import names_in_examples
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.quantiles import cut_features, noted_bounds
from mamdr_core.lake.examples.versions import newest_versions, removed_version_errors
from mamdr_core.lake.examples.windows import Limits, read_window, window_at
from mamdr_core.runtime.errors import MamdrError
from schemas import SAMPLE_WEIGHT, SPLITS, feature_vocabulary

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class PinnedFile:
    """A live file of the pinned version.

    Attributes:
        split: the split of its rows.
        domains: indices of its domains, ascending, int32 [d].
        rows: number of rows of each, int64 [d].
        days: first and last day of the rows that are used (days since 1970); None: all rows.
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
        """Order of the domains by their first training row in the files, int64 [n].

        Domains with close values share row groups.
        """
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
    splits: Sequence[str] = SPLITS,
) -> PinnedExamples:
    """Resolve the newest version of every table that training reads, or the given ones.

    The files are those of the Delta log. Folders are not listed, so files that Delta has removed or that another job is
    writing are not read.

    Args:
        where: settings of the lake, or its root.
        versions: versions by table, see `mamdr_core.lake.examples.versions`; None: the newest.
        train_days: see `Window.limits` in `mamdr_core.lake.examples.windows`; 0: the whole window.
        splits: the splits to read; `counts` and `files` have no others, and without train, `numeric` is empty.

    Raises:
        MamdrError: a table is missing, a declared feature is not in the examples, or a version's files were removed.
    """
    lake = Lake(spark, where)
    versions = versions or {"examples": lake.version("examples")} | newest_versions(lake, features)
    with removed_version_errors(f"examples version {versions['examples']} of {lake.root}"):
        return _pin(lake, features, versions, train_days, splits)


def _pin(
    lake: Lake, features: Sequence[Feature], versions: dict[str, int], train_days: int, splits: Sequence[str]
) -> PinnedExamples:
    vectors: set[str] = {feature.of for feature in features if feature.kind == "vector"}
    window = window_at(lake, versions["examples"])
    examples = read_window(lake, versions["examples"], window, train_days)
    missing = [name for name in names_in_examples(features) if name not in examples.columns]
    if missing:
        raise MamdrError(f"examples has no column {', '.join(missing)}: run build_examples again with these features")

    domains = lake.read("domains", versions["domains"]).select("index", "id").toArrow().sort_by("index")
    sizes = {name: lake.read(f"{name}s", versions[f"{name}s"]).count() for name in ("user", "item")}
    sizes["domain"] = len(domains)
    sizes |= {f.name: f.buckets or f.quantiles for f in features if f.is_id and not (f.has_vocabulary or f.table)}
    for feature in features:
        if feature.has_vocabulary:
            vocabulary = feature_vocabulary(feature.name)
            sizes[feature.name] = lake.read(vocabulary, versions[vocabulary.name]).count()
    sizes |= {feature.name: sizes[feature.table] for feature in features if feature.table}

    days = {split: _days_since_1970(window.limits(split, train_days)) for split in SPLITS}
    chosen = examples if len(splits) == len(SPLITS) else examples.where(F.col("split").isin(*splits))
    files, counts = _count_files(chosen, len(domains), days, splits)
    numeric = _moments(examples, [f.name for f in features if f.kind == "numeric" and "train" in splits])
    vector_files = {
        of: tuple(sorted(lake.read(f"{of}_features", versions[f"{of}_features"]).inputFiles())) for of in vectors
    }
    ids, has_weights = tuple(domains["id"].to_pylist()), SAMPLE_WEIGHT in examples.columns
    bounds = noted_bounds(lake, versions["examples"]) if cut_features(features) else {}
    declared = {feature.name for feature in cut_features(features)}
    quantiles = {name: list(values) for name, values in bounds.items() if name in declared}
    return PinnedExamples(versions, files, ids, counts, sizes, vector_files, numeric, has_weights, quantiles)


def _days_since_1970(limits: Limits) -> tuple[int, int] | None:
    """The first and last day as days since 1970; None: all days."""
    if limits == (None, None):
        return None
    first, last = limits[0] or date.min, limits[1] or date.max
    return (first - _EPOCH).days, (last - _EPOCH).days


def _count_files(
    examples: DataFrame, domains: int, days: Mapping[str, tuple[int, int] | None], splits: Sequence[str]
) -> tuple[tuple[PinnedFile, ...], dict[str, NDArray[np.int64]]]:
    """The live files with their domains, once for each split of their rows, and the number of rows by split and domain.

    Args:
        domains: number of domains.
        days: by split, the days that are used.

    Raises:
        MamdrError: a domain's index is not below the number of domains.
    """
    url = F.col("_metadata.file_path").alias("url")
    by_domain = examples.groupBy("split", "domain", url).agg(F.count("*").alias("rows"))
    counted = F.sort_array(F.collect_list(F.struct("domain", "rows"))).alias("counted")
    counts = {name: np.zeros(domains, dtype=np.int64) for name in splits}
    files = []
    # One Arrow row for each file: a row for each pair of 10^5 domains and 10^3 files would exceed the driver's memory.
    for batch in by_domain.groupBy("split", "url").agg(counted).toArrow().to_batches():
        edges, pairs = batch.column("counted").offsets.to_numpy(), batch.column("counted").values
        domain, rows = (pairs.field(name).to_numpy() for name in ("domain", "rows"))
        if len(domain) and not 0 <= domain.min() <= domain.max() < domains:
            raise MamdrError(
                f"examples have an index of domain beyond its vocabulary of {domains} values: run build_examples again"
            )
        ranges = zip(batch.column("split").to_pylist(), batch.column("url").to_pylist(), edges, edges[1:], strict=False)
        for split, name, first, last in ranges:
            files.append(PinnedFile(name, split, domain[first:last], rows[first:last], days[split]))
            counts[split][domain[first:last]] += rows[first:last]
    return tuple(sorted(files, key=lambda pinned: (pinned.url, pinned.split))), counts


def _moments(examples: DataFrame, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of numeric features over the train split, without missing values."""
    if not names:
        return {}
    known = [F.when(~F.isnan(name), F.col(name)) for name in names]
    moments = [moment(column) for column in known for moment in (F.mean, F.stddev_pop)]
    found = examples.where(F.col("split") == "train").agg(*moments).first() or [None] * len(moments)
    pairs = zip(found[::2], found[1::2], strict=True)
    return {
        name: (float(mean or 0.0), float(deviation or 1.0))
        for name, (mean, deviation) in zip(names, pairs, strict=True)
    }
