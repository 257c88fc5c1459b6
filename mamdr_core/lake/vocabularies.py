"""Vocabularies: append-only tables from id to a contiguous index that never changes."""

import logging
from dataclasses import dataclass

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from mamdr_core.lake.caching import kept_frames
from mamdr_core.lake.hashing import bucket, hash64
from mamdr_core.lake.tables import Lake
from schemas import UNKNOWN_INDEX, Table

logger = logging.getLogger(__name__)

BUCKETS = 64
"""New ids are numbered in so many independent buckets; fixed, because the numbering depends on it."""
_HASH, _BUCKET, _OLD = "_hash", "_bucket", "_old"


@dataclass(frozen=True)
class Growth:
    """What an update did to a vocabulary."""

    total: int
    new: int


def update_vocabulary(lake: Lake, table: Table, rows: DataFrame, column: str) -> Growth:
    """Give every id of `rows[column]` an index, keeping those that exist, in one commit; none if nothing changed.

    New ids follow the existing ones in an order decided by hashes, so that the same days in the same order give the
    same indices, whatever the order and partitions of the rows.

    Args:
        lake: where the vocabulary is.
        table: its declaration.
        rows: with `column` (null: no id) and `ds`.
        column: the ids.
    """
    seen = seen_ids(rows, column)
    known = lake.exists(table)
    before = lake.read(table).count() if known else 0
    with kept_frames() as keep:
        compared = keep(compare(seen, lake.read(table) if known else None))
        counts = {row[_BUCKET]: row for row in _count(compared).collect()}
        new = [counts[number]["new"] if number in counts else 0 for number in range(BUCKETS)]
        changed = sum(row["changed"] for row in counts.values())
        entries = number_ids(compared, new, before)
        if not known:
            lake.append(table, entries)
        elif sum(new) or changed:
            # A merge reads what it writes, so that a second job that numbers ids at the same time fails on conflict.
            lake.merge(
                table,
                entries,
                on="old.id = new.id",
                update={
                    "first_seen": "least(old.first_seen, new.first_seen)",
                    "last_seen": "greatest(old.last_seen, new.last_seen)",
                },
            )
    growth = Growth(total=before + sum(new), new=sum(new))
    logger.info("%s: %d, %d of them new", table.name, growth.total, growth.new)
    return growth


def seen_ids(rows: DataFrame, column: str) -> DataFrame:
    """One row per id of `rows[column]`: id, first_seen, last_seen."""
    return (
        rows.where(F.col(column).isNotNull())
        .groupBy(F.col(column).alias("id"))
        .agg(F.min("ds").alias("first_seen"), F.max("ds").alias("last_seen"))
    )


def compare(seen: DataFrame, vocabulary: DataFrame | None) -> DataFrame:
    """What is new or was seen outside the known days: id, first_seen, last_seen, `_old` (index; null: new)."""
    if vocabulary is None:
        return _with_bucket(seen.withColumn(_OLD, F.lit(None).cast("int")))
    old = vocabulary.select(
        "id", F.col("index").alias(_OLD), F.col("first_seen").alias("_first"), F.col("last_seen").alias("_last")
    )
    wider = (F.col("first_seen") < F.col("_first")) | (F.col("last_seen") > F.col("_last"))
    return _with_bucket(seen.join(old, "id", "left").where(F.col(_OLD).isNull() | wider).drop("_first", "_last"))


def number_ids(compared: DataFrame, new: list[int], start: int) -> DataFrame:
    """Vocabulary rows: new ids numbered from `start`, old ones with their index.

    Args:
        compared: from `compare`.
        new: number of new ids in each bucket.
        start: the first new index.
    """
    offsets = F.array(*(F.lit(start + sum(new[:number])) for number in range(BUCKETS)))
    in_bucket = Window.partitionBy(_BUCKET, F.col(_OLD).isNull()).orderBy(_HASH, "id")
    number = F.get(offsets, F.col(_BUCKET)) + F.row_number().over(in_bucket) - 1
    return compared.select("id", F.coalesce(F.col(_OLD), number).cast("int").alias("index"), "first_seen", "last_seen")


def encode(rows: DataFrame, column: str, vocabulary: DataFrame, to: str, small: bool = False) -> DataFrame:
    """Add the index of `rows[column]` as column `to`, UNKNOWN_INDEX where the vocabulary lacks it.

    Args:
        rows: with `column`.
        column: the ids; dropped unless it is `to`, which then replaces it.
        vocabulary: id, index.
        to: name of the index column.
        small: the vocabulary fits in every executor's memory.
    """
    indices = vocabulary.select(F.col("id").alias("_id"), F.col("index").alias("_index"))
    joined = rows.join(F.broadcast(indices) if small else indices, F.col(column) == F.col("_id"), "left")
    return joined.withColumn(to, F.coalesce("_index", F.lit(UNKNOWN_INDEX))).drop("_id", "_index")


def _with_bucket(entries: DataFrame) -> DataFrame:
    hashed = hash64("vocabulary", F.col("id"))
    return entries.withColumn(_HASH, hashed).withColumn(_BUCKET, bucket(hashed, BUCKETS))


def _count(compared: DataFrame) -> DataFrame:
    is_new = F.col(_OLD).isNull().cast("long")
    return compared.groupBy(_BUCKET).agg(F.sum(is_new).alias("new"), F.sum(1 - is_new).alias("changed"))
