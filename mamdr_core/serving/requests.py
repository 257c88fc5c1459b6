"""Rows to score: read by the configured expressions, or examples; encoded as training encodes them."""

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.features import Feature
from mamdr_core.lake.core.features import names_in_examples
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.id_arrays import in_pairs
from mamdr_core.lake.core.sources import CORRUPT, as_id, read_input, resolve
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.encoding import IDS, encode_features, indexed_features
from mamdr_core.lake.examples.quantiles import cut_features, cut_numbers, noted_bounds
from mamdr_core.lake.examples.several_ids import encode_several, hashed_ids
from mamdr_core.lake.examples.vocabularies import encode, grown, id_column
from mamdr_core.lake.examples.windows import read_window
from mamdr_core.lake.ingest.features import declared_features
from mamdr_core.lake.settings import ExamplesSettings, InputSettings
from mamdr_core.serving.scorer import index_of
from mamdr_core.serving.served import Served
from mamdr_core.serving.settings import ScoreColumns, ScoreInput
from schemas import TABLES, UNKNOWN_INDEX, feature_vocabulary, weights_of

MALFORMED = "_malformed"


def source_of(settings: ScoreInput) -> InputSettings:
    """The rows to score as what `mamdr_core.lake.core.sources` reads."""
    return InputSettings(path=settings.path, format=settings.format, options=settings.options)


def read_requests(spark: SparkSession, settings: ScoreInput, served: Served) -> DataFrame:
    """The rows of `settings.path`; see `requests_of`.

    Raises:
        MamdrError: they cannot be read, or lack a column that an expression names.
    """
    return requests_of(read_input(spark, source_of(settings)), settings.columns, served)


def requests_of(
    raw: DataFrame, columns: ScoreColumns, served: Served, features: Sequence[Feature] | None = None
) -> DataFrame:
    """Rows to score, with the run's declared features as clicks have them.

    Args:
        raw: the rows.
        columns: expressions of their ids and key.
        served: the run.
        features: those of its features that the rows have; None: all.

    Returns:
        key, user, item, domain (strings, null where not given), the features, and `_malformed`, whether the line is not
        a whole record.

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
    """Replace features by what examples hold, and add the indices of the ids, `_user_index` and so on.

    Vocabularies may have grown since the run was trained: what it does not know has the index UNKNOWN_INDEX.

    Args:
        requests: from `requests_of`.
        lake: that the run was recorded in.
        served: the run.
        ids: which of user, item and domain get an index.
        features: as `requests_of` was given.
    """
    examples, features = served.config.examples, served.features if features is None else features
    shared = {feature.table for feature in features}
    indexed = [name for name in indexed_features(served.features) if name in shared | {f.name for f in features}]
    values = {name: grown(lake, feature_vocabulary(name)) for name in indexed}
    shared &= {"user", "item"}
    values |= {name: grown(lake, TABLES[f"{name}s"]) for name in sorted(shared)}
    several = [feature for feature in features if feature.has_several_ids]
    rows = requests.withColumns(
        {name: column for feature in several for name, column in hashed_ids(feature, examples.users, examples.items)}
    )
    rows = encode_several(rows, values, several, served.features)
    for name in reversed(ids):
        hashed = f"_{name}_hash"
        rows = rows.withColumn(hashed, hash64(_looked_up(name, examples)))
        rows = encode(rows, hashed, lake.read(f"{name}s"), to=index_of(name)).drop(hashed)
    rows = encode_features(rows, values, features)
    if cut := cut_features(features):
        # The lake's log need not reach back to the run; it is asked for packages that do not hold the bounds.
        rows = cut_numbers(rows, cut, served.quantiles or noted_bounds(lake, served.versions["examples"]))
    names = [feature.name for feature in features if feature.kind == "categorical"]
    single = {**{index_of(name): served.sizes[name] for name in ids}, **{n: served.sizes[n] for n in names}}
    return _several_within(_within(rows, single), several, served.sizes)


def read_test_split(lake: Lake, served: Served) -> DataFrame:
    """The test split of the examples that a run was trained on, as `encode_requests` gives rows; ids as vocabularies
    have them, null where an example's id has no index.
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
    """Bags and sequences without the ids that the run does not know."""
    for feature in several:
        names = [feature.name, *([weights_of(feature.name)] if feature.weights else [])]
        known = _those_below(in_pairs(F.col(names[0]), F.col(names[-1])), sizes[feature.name])
        rows = rows.withColumns({name: known[part] for name, part in zip(names, ("id", "weight"), strict=False)})
    return rows


def _those_below(pairs: Column, size: int) -> Column:
    return F.filter(pairs, lambda pair: pair["id"] < size)


def _looked_up(name: str, examples: ExamplesSettings) -> Column:
    hashed_ids = {"user": examples.users, "item": examples.items}
    return id_column(F.col(name), hashed_ids[name]) if name in hashed_ids else F.col(name)


def _within(rows: DataFrame, sizes: Mapping[str, int]) -> DataFrame:
    known = {name: F.when(F.col(name) < size, F.col(name)).otherwise(UNKNOWN_INDEX) for name, size in sizes.items()}
    return rows.withColumns(known)
