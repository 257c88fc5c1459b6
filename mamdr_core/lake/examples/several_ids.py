"""Encodes bags and sequences of ids as arrays of indices, by one join for all ids of all features.

Rows with equal arrays share a key. The arrays of each key are exploded to one row per id, joined with the vocabularies
and collected again by key. The rows themselves are never exploded; they are joined with the result by key.
"""

from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.lake import IdSettings
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.id_arrays import in_pairs, newest_or_first
from mamdr_core.lake.examples.vocabularies import Growth, id_column, joinable
from schemas import weights_of

_KEYS = ("_several", "_several_2")
"""Two hashes of a row's arrays: with a billion rows, a single one could collide."""
_FOUND = "array<struct<place:int,weight:float,index:int>>"


def hashed_ids(feature: Feature, users: IdSettings, items: IdSettings) -> list[tuple[str, Column]]:
    """Columns of a bag or sequence in clicks, truncated to `length`: ids as in their vocabulary, and weights."""
    ids = newest_or_first(feature, F.col(feature.name))
    if settings := {"user": users, "item": items}.get(feature.table):
        ids = F.transform(ids, lambda value: id_column(value, settings)) if settings.buckets else ids
    weights = [weights_of(feature.name)] if feature.weights else []
    return [(feature.name, ids), *((name, newest_or_first(feature, F.col(name))) for name in weights)]


def buckets_of(feature: Feature, features: Sequence[Feature]) -> int:
    """Number of buckets of a feature's ids, or of the feature whose table it shares; 0: they have a vocabulary."""
    shared = next((other.buckets for other in features if other.name == feature.table), 0)
    return feature.buckets or shared


def encode_several(
    rows: DataFrame, vocabularies: Mapping[str, Growth], several: Sequence[Feature], features: Sequence[Feature]
) -> DataFrame:
    """Replace the ids of bags and sequences by the indices of the known ids, in order, with their weights.

    A null array becomes an empty one. If the array of weights is null, each id has weight 1.

    Args:
        vocabularies: by column of single ids, or by the name of a feature with a separate vocabulary.
        several: the bags and sequences to encode.
    """
    for feature in several:
        if feature.weights:
            given, ones = F.col(weights_of(feature.name)), F.transform(feature.name, lambda _: F.lit(1.0).cast("float"))
            rows = rows.withColumn(weights_of(feature.name), F.coalesce(given, ones, F.array().cast("array<float>")))
        rows = rows.withColumn(feature.name, _hashed(feature, buckets_of(feature, features)))
    looked_up = [feature for feature in several if not buckets_of(feature, features)]
    return _look_up(rows, vocabularies, looked_up) if looked_up else rows


def _hashed(feature: Feature, buckets: int) -> Column:
    """The hashes of a row's ids, or their buckets."""
    if buckets:
        numbers = F.transform(feature.name, lambda value: F.pmod(hash64(value), F.lit(buckets)).cast("int"))
        return F.coalesce(numbers, F.array().cast("array<int>"))
    return F.coalesce(F.transform(feature.name, lambda value: hash64(value)), F.array().cast("array<bigint>"))


def _look_up(rows: DataFrame, vocabularies: Mapping[str, Growth], features: Sequence[Feature]) -> DataFrame:
    names = [name for feature in features for name in (feature.name, weights_of(feature.name)) if name in rows.columns]
    rows = _with_keys(rows, names)
    of = {feature.name: feature.table or feature.name for feature in features}
    tables = sorted(set(of.values()))
    exploded = (
        rows.where(F.col(_KEYS[1]).isNotNull())
        .groupBy(*_KEYS)
        .agg(*(F.first(name).alias(name) for name in names))
        .select(*_KEYS, F.inline(F.concat(*(_listed(n, f, tables.index(of[f.name])) for n, f in enumerate(features)))))
    )
    known = [
        vocabularies[name].indices.select(
            F.lit(number).alias("_table"), hash64(F.col("id")).alias("_hash"), F.col("index").alias("_index")
        )
        for number, name in enumerate(tables)
    ]
    size = sum(vocabularies[name].total for name in tables)
    indices = reduce(DataFrame.unionByName, known)
    found = exploded.join(joinable(indices, size), ["_table", "_hash"], "inner")
    entry = F.struct(F.col("_place").alias("place"), F.col("_weight").alias("weight"), F.col("_index").alias("index"))
    gathered = found.groupBy(*_KEYS).agg(
        *(
            F.sort_array(F.collect_list(F.when(F.col("_feature") == number, entry))).alias(f"_found_{number}")
            for number in range(len(features))
        )
    )
    joined = rows.drop(*names).join(gathered, list(_KEYS), "left")
    made: dict[str, Column] = {}
    for number, feature in enumerate(features):
        entries = F.coalesce(f"_found_{number}", F.array().cast(_FOUND))
        made[feature.name] = entries["index"]
        if feature.weights:
            made[weights_of(feature.name)] = entries["weight"]
    return joined.withColumns(made).drop(*_KEYS, *(f"_found_{number}" for number in range(len(features))))


def _with_keys(rows: DataFrame, names: Sequence[str]) -> DataFrame:
    """Add two hashes of a row's arrays; if all are empty, a hash that distributes such rows over tasks, and null."""
    # Sizes are included, because the hash of [1, 2] and [] is equal to that of [1] and [2].
    hashed = [part for name in names for part in (F.size(name), F.col(name))]
    is_empty = F.greatest(F.lit(0), *(F.size(name) for name in names)) == 0
    others = hash64(*(F.col(f"`{name}`") for name in rows.columns if name not in names))
    first, second = (hash64(key, *hashed) for key in _KEYS)
    return rows.withColumns({_KEYS[0]: F.when(is_empty, others).otherwise(first), _KEYS[1]: F.when(~is_empty, second)})


def _listed(number: int, feature: Feature, table: int) -> Column:
    """The ids of one feature as structs: feature, table and hash for the join, place and weight for the result."""
    weights = F.col(weights_of(feature.name)) if feature.weights else F.array().cast("array<float>")
    return F.transform(
        in_pairs(F.col(feature.name), weights),
        lambda pair, place: F.struct(
            F.lit(number).alias("_feature"),
            F.lit(table).alias("_table"),
            place.alias("_place"),
            pair["id"].alias("_hash"),
            pair["weight"].alias("_weight"),
        ),
    )
