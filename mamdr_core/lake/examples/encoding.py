"""Encodes clicks: indices of ids and features, and the hashes that decide splits and negatives."""

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.examples.vocabularies import Growth, encode
from schemas import UNKNOWN_INDEX

IDS = ("user", "item", "domain")
HASHES = tuple(f"{name}_hash" for name in IDS)
_VALUE = "_value_hash"


def with_hashes(clicks: DataFrame) -> DataFrame:
    """Add user_hash, item_hash and domain_hash, hashes of the raw ids, which are equal in all lakes."""
    return clicks.withColumns({f"{name}_hash": hash64(F.col(name)) for name in IDS})


def row_key() -> Column:
    """The key of a row, which orders rows within a domain: a hash of its ids, time, day and label."""
    return hash64("key", *(F.col(name) for name in (*HASHES, "event_time", "ds", "label")))


def sampled_key() -> Column:
    """The key of a sampled negative, which has no time."""
    return hash64("negative", *(F.col(name) for name in HASHES))


def first_of_pairs(clicks: DataFrame) -> DataFrame:
    """Keep the earliest row of each user, item and domain; ties are decided by the day, then by the other columns.

    A row without a time counts as the beginning of its day.
    """
    times = ("event_time", "ds")
    at = F.coalesce("event_time", F.col("ds").cast("timestamp")).alias("_at")
    rest = (*times, *(name for name in clicks.columns if name not in (*IDS, *HASHES, *times)))
    first = clicks.groupBy(*IDS, *HASHES).agg(F.min(F.struct(at, *rest)).alias("_first"))
    return first.select(*IDS, *HASHES, *(F.col(f"_first.{name}").alias(name) for name in rest))


def encode_ids(clicks: DataFrame, vocabularies: Mapping[str, Growth]) -> DataFrame:
    """Replace user, item and domain by their indices; keep their hashes.

    Args:
        clicks: clicks with hashes.
        vocabularies: by "user", "item" and "domain".
    """
    # Large vocabularies, which are joined by a shuffle, come last, so that fewer string columns are shuffled.
    for name in reversed(IDS):
        known = vocabularies[name]
        clicks = encode(clicks.drop(name), f"{name}_hash", known.indices, name, known.total)
    return clicks


def indexed_features(features: Sequence[Feature]) -> list[str]:
    """The features that have a vocabulary."""
    return [feature.name for feature in features if feature.has_vocabulary]


def encode_features(clicks: DataFrame, vocabularies: Mapping[str, Growth], features: Sequence[Feature]) -> DataFrame:
    """Encode single-valued features: categorical as int (-1: null or unknown), numeric as float.

    Args:
        clicks: clicks with the features. Bags and sequences (see `several_ids`) and numbers with `quantiles` stay.
        vocabularies: vocabularies of categorical features without buckets, by name.
        features: the declared features; vectors are not columns.
    """
    for feature in features:
        if feature.kind == "numeric":
            clicks = clicks.withColumn(feature.name, F.col(feature.name).cast("float"))
        elif feature.kind == "categorical" and feature.buckets:
            hashed = F.pmod(hash64(F.col(feature.name)), F.lit(feature.buckets)).cast("int")
            known = F.when(F.col(feature.name).isNotNull(), hashed)
            clicks = clicks.withColumn(feature.name, F.coalesce(known, F.lit(UNKNOWN_INDEX)))
        elif feature.has_vocabulary and not feature.has_several_ids:
            values = vocabularies[feature.name]
            clicks = clicks.withColumn(_VALUE, hash64(F.col(feature.name))).drop(feature.name)
            clicks = encode(clicks, _VALUE, values.indices, feature.name, values.total).drop(_VALUE)
    return clicks
