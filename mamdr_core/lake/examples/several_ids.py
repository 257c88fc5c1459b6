"""Bags and sequences of ids become arrays of indices: one look-up for all ids of all of them.

Rows with the same arrays share a key, and each key's ids are looked up once: they are a row each for that, and come
together again by key. Rows themselves are never repeated, and are joined with the result by key.
"""

from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.lake import IdSettings
from mamdr_core.lake.core.few import small
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.id_arrays import in_pairs, newest_or_first
from mamdr_core.lake.core.session import memory_of
from mamdr_core.lake.examples.vocabularies import BROADCAST_BYTES, Growth, id_column
from schemas import weights_of

_KEYS = ("_several", "_several_2")
"""Two hashes of a row's arrays: among a billion rows one of them would not be enough."""
_FOUND = "array<struct<place:int,weight:float,index:int>>"


def hashed_ids(feature: Feature, users: IdSettings, items: IdSettings) -> list[tuple[str, Column]]:
    """The ids of a bag or sequence as its vocabulary has them, `length` at most, and its weights, by column.

    Args:
        feature: a bag or sequence that is a column.
        users: how users' ids are hashed.
        items: how items' ids are hashed.
    """
    ids = newest_or_first(feature, F.col(feature.name))
    if settings := {"user": users, "item": items}.get(feature.table):
        ids = F.transform(ids, lambda value: id_column(value, settings)) if settings.buckets else ids
    weights = [weights_of(feature.name)] if feature.weights else []
    return [(feature.name, ids), *((name, newest_or_first(feature, F.col(name))) for name in weights)]


def buckets_of(feature: Feature, features: Sequence[Feature]) -> int:
    """Into how many buckets the ids of a feature are hashed: its own number, or that of the feature whose table it
    shares; 0: they have a vocabulary.
    """
    shared = next((other.buckets for other in features if other.name == feature.table), 0)
    return feature.buckets or shared


def encode_several(
    rows: DataFrame, vocabularies: Mapping[str, Growth], several: Sequence[Feature], features: Sequence[Feature]
) -> DataFrame:
    """Replace the ids of bags and sequences by the indices of those that are known, in order, and fit weights to them.

    A null array becomes an empty one. Where a bag has weights, null stands for 1 each.

    Args:
        rows: with the features.
        vocabularies: by column of single ids, or by the feature's name where the vocabulary is its own.
        several: the bags and sequences to encode.
        features: all that are declared.
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
    fits = size * BROADCAST_BYTES <= memory_of(rows.sparkSession)
    found = exploded.join(small(indices) if fits else indices.hint("shuffle_hash"), ["_table", "_hash"], "inner")
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
    """Add a key of a row's arrays. Where all are empty it has none, and a hash that spreads these rows over tasks."""
    # With their sizes, as the hash of [1, 2] and [] is that of [1] and [2].
    hashed = [part for name in names for part in (F.size(name), F.col(name))]
    is_empty = F.greatest(F.lit(0), *(F.size(name) for name in names)) == 0
    others = hash64(*(F.col(f"`{name}`") for name in rows.columns if name not in names))
    first, second = (hash64(key, *hashed) for key in _KEYS)
    return rows.withColumns({_KEYS[0]: F.when(is_empty, others).otherwise(first), _KEYS[1]: F.when(~is_empty, second)})


def _listed(number: int, feature: Feature, table: int) -> Column:
    """A row's ids of one feature, each with all that is needed to look it up and to put it back."""
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
