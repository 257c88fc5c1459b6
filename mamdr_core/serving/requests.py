"""Rows to score: the configured input or the test split, encoded as for training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.lake import ExamplesSettings, InputSettings
from mamdr_core.config.serving import CandidateSettings, ScoreColumns, ScoreInput
from mamdr_core.lake.core.features import names_in_examples
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.id_arrays import in_pairs
from mamdr_core.lake.core.sources import CORRUPT, as_id, read_input, resolve
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.encoding import IDS, encode_features, indexed_features
from mamdr_core.lake.examples.quantiles import cut_features, cut_numbers
from mamdr_core.lake.examples.several_ids import encode_several, hashed_ids
from mamdr_core.lake.examples.vocabularies import encode, id_column, unchanged_vocabulary
from mamdr_core.lake.examples.windows import read_window
from mamdr_core.lake.ingest.features import declared_features
from mamdr_core.serving.scorer import index_of
from mamdr_core.serving.served import Served
from schemas import TABLES, UNKNOWN_INDEX, feature_vocabulary, weights_of

MALFORMED = "_malformed"
"""Column that is true for malformed records."""


@dataclass(frozen=True)
class PreparedInput:
    """The counted input.

    Attributes:
        rows: number of rows that will be written.
        pairs: number of pairs of a user and an item that will be scored.
        score: computes the scored rows, given the file of the fixed vectors.
        figures: counts for the job's JSON.
    """

    rows: int
    pairs: int
    score: Callable[[str], DataFrame]
    figures: dict[str, int]


def source_of(settings: ScoreInput | CandidateSettings) -> InputSettings:
    """The input or the candidates as an argument of `mamdr_core.lake.core.sources.read_input`."""
    return InputSettings(path=settings.path, format=settings.format, options=settings.options)


def read_requests(spark: SparkSession, settings: ScoreInput, served: Served) -> DataFrame:
    """Read the rows of `settings.path`; see `requests_of`.

    Raises:
        MamdrError: the rows cannot be read, or lack a column that an expression names.
    """
    return requests_of(read_input(spark, source_of(settings)), settings.columns, served)


def requests_of(
    raw: DataFrame, columns: ScoreColumns, served: Served, features: Sequence[Feature] | None = None
) -> DataFrame:
    """Rows to score, with the run's declared features as in clicks.

    Args:
        raw: the rows as they were read.
        columns: expressions of the ids and the key.
        served: the run.
        features: the run's features that are read from the rows; None: all.

    Returns:
        key, user, item, domain (strings, null if not given), the features, and MALFORMED.

    Raises:
        MamdrError: the rows lack a column that an expression names.
    """
    keys = {name: f"input.columns.{name}" for name in IDS}
    ids = [as_id(raw, key, resolve(raw, key, getattr(columns, name))).alias(name) for name, key in keys.items()]
    key = resolve(raw, "input.columns.key", columns.key) if columns.key else F.lit(None)
    declared = declared_features(raw, served.features, keep_faulty=True, only=features)
    malformed = F.col(CORRUPT).isNotNull() if CORRUPT in raw.columns else F.lit(False)
    return raw.select(key.cast("string").alias("key"), *ids, *declared, malformed.alias(MALFORMED))


def encode_requests(
    requests: DataFrame,
    lake: Lake,
    served: Served,
    ids: Sequence[str] = IDS,
    features: Sequence[Feature] | None = None,
) -> DataFrame:
    """Encode features as in examples, and add the indices of the ids: `_user_index`, `_item_index`, `_domain_index`.

    Vocabularies may have grown since the run was trained: ids added since then have the index UNKNOWN_INDEX.

    Args:
        requests: from `requests_of`.
        lake: the lake in which the run was recorded.
        served: the run.
        ids: which of user, item and domain get an index.
        features: the argument of `requests_of`.
    """
    examples, features = served.config.examples, served.features if features is None else features
    shared = {feature.table for feature in features}
    indexed = [name for name in indexed_features(served.features) if name in shared | {f.name for f in features}]
    values = {name: unchanged_vocabulary(lake, feature_vocabulary(name)) for name in indexed}
    shared &= {"user", "item"}
    values |= {name: unchanged_vocabulary(lake, TABLES[f"{name}s"]) for name in sorted(shared)}
    several = [feature for feature in features if feature.has_several_ids]
    rows = requests.withColumns(
        {name: column for feature in several for name, column in hashed_ids(feature, examples.users, examples.items)}
    )
    rows = encode_several(rows, values, several, served.features)
    for name in reversed(ids):
        hashed = f"_{name}_hash"
        rows = rows.withColumn(hashed, hash64(_vocabulary_key(name, examples)))
        rows = encode(rows, hashed, lake.read(f"{name}s"), to=index_of(name)).drop(hashed)
    rows = encode_features(rows, values, features)
    if cut := cut_features(features):
        rows = cut_numbers(rows, cut, served.quantiles)
    names = [feature.name for feature in features if feature.kind == "categorical"]
    single = {**{index_of(name): served.sizes[name] for name in ids}, **{n: served.sizes[n] for n in names}}
    return _several_within(_within(rows, single), several, served.sizes)


def read_test_split(lake: Lake, served: Served) -> DataFrame:
    """The test split of the examples that a run was trained on, with the columns of `encode_requests`.

    Ids are those of the vocabularies, null where an example has the index UNKNOWN_INDEX.
    """
    features = names_in_examples(served.features)
    rows = read_window(lake, served.versions["examples"]).where(F.col("split") == "test")
    rows = rows.select(
        F.col("key").cast("string").alias("key"), *(F.col(name).alias(index_of(name)) for name in IDS), *features
    )
    for name in IDS:
        ids = lake.read(f"{name}s").select(F.col("id").alias(name), F.col("index").alias(index_of(name)))
        rows = rows.join(ids, index_of(name), "left")
    return rows


def _several_within(rows: DataFrame, several: Sequence[Feature], sizes: Mapping[str, int]) -> DataFrame:
    """Remove the ids of bags and sequences that are not below the run's vocabulary sizes."""
    for feature in several:
        names = [feature.name, *([weights_of(feature.name)] if feature.weights else [])]
        known = _ids_below(in_pairs(F.col(names[0]), F.col(names[-1])), sizes[feature.name])
        rows = rows.withColumns({name: known[part] for name, part in zip(names, ("id", "weight"), strict=False)})
    return rows


def _ids_below(pairs: Column, size: int) -> Column:
    return F.filter(pairs, lambda pair: pair["id"] < size)


def _vocabulary_key(name: str, examples: ExamplesSettings) -> Column:
    hashed_ids = {"user": examples.users, "item": examples.items}
    return id_column(F.col(name), hashed_ids[name]) if name in hashed_ids else F.col(name)


def _within(rows: DataFrame, sizes: Mapping[str, int]) -> DataFrame:
    known = {name: F.when(F.col(name) < size, F.col(name)).otherwise(UNKNOWN_INDEX) for name, size in sizes.items()}
    return rows.withColumns(known)
