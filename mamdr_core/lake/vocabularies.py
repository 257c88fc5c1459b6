"""Vocabularies: append-only tables from id to a contiguous index that never changes.

Ids are told apart by a 64-bit hash. Among 84 million the chance that any two share one is 2 in 10,000; the two would
share an index, and nothing else would go wrong.
"""

import logging
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mamdr_core.errors import MamdrError
from mamdr_core.lake.caching import kept_frames
from mamdr_core.lake.hashing import bucket, hash64
from mamdr_core.lake.session import memory_of
from mamdr_core.lake.settings import IdSettings
from mamdr_core.lake.tables import Lake
from schemas import UNKNOWN_INDEX, Table

logger = logging.getLogger(__name__)

BUCKETS = 64
"""New ids are numbered in so many independent buckets; fixed, because the numbering depends on it."""
TRIES = 5
"""Times that ids are numbered again because another job was first."""
BROADCAST_BYTES = 1_000
"""A vocabulary is sent whole to every executor if so much of its memory falls to each id; a larger one is shuffled."""
_HASH, _BUCKET, _OLD, _NUMBER = "_hash", "_bucket", "_old", "_number"


@dataclass(frozen=True)
class Growth:
    """What an update did to a vocabulary."""

    total: int
    new: int


def update_vocabulary(lake: Lake, table: Table, rows: DataFrame, column: str, min_count: int = 1) -> Growth:
    """Give every id of `rows[column]` an index, keeping those that exist; no commit if nothing changed.

    New ids follow the existing ones in an order decided by hashes, so that the same days in the same order give the
    same indices, whatever the order and partitions of the rows. No task sees more than a part of the ids. Where another
    job has added ids in the meantime, the new ones are numbered again behind its own.

    Args:
        lake: where the vocabulary is.
        table: its declaration.
        rows: with `column` (null: no id) and `ds`.
        column: the ids.
        min_count: an id without an index gets one only if so many of the rows hold it.

    Raises:
        MamdrError: other jobs kept adding ids at the same time.
    """
    is_new = lake.create(table)
    for _ in range(TRIES):
        version = lake.version(table)
        known = lake.read(table, version)
        before = 0 if is_new and not version else known.count()  # what was created at this moment need not be read
        with kept_frames() as keep:
            numbered = keep(number_ids(seen_ids(rows, column), known if before else None, min_count))
            new, changed = _count(numbered)
            if sum(new) and not lake.append_to(table, _entries(numbered, new, before), rows_before=before):
                logger.info("%s: another job was first; numbering again", table.name)
                continue
            if changed:
                _widen(lake, table, numbered)
        growth = Growth(total=before + sum(new), new=sum(new))
        logger.info("%s: %d, %d of them new", table.name, growth.total, growth.new)
        return growth
    raise MamdrError(f"{table.name}: other jobs kept adding ids at the same time; run again when they have ended")


def seen_ids(rows: DataFrame, column: str) -> DataFrame:
    """One row per id of `rows[column]`: id, its hash and bucket, first_seen, last_seen, count."""
    ids = rows.where(F.col(column).isNotNull()).select(F.col(column).alias("id"), "ds")
    ids = ids.withColumn(_HASH, hash64(F.col("id")))
    return (
        # All of a bucket on one task: what follows needs no second shuffle. Grouping before it would save no row, since
        # the rows of an id are spread over the log.
        ids.withColumn(_BUCKET, bucket(F.col(_HASH), BUCKETS))
        .repartition(_BUCKET)
        .groupBy(_BUCKET, _HASH, "id")
        .agg(F.min("ds").alias("first_seen"), F.max("ds").alias("last_seen"), F.count("*").alias("count"))
    )


def number_ids(seen: DataFrame, known: DataFrame | None, min_count: int = 1) -> DataFrame:
    """The ids that are new or were seen outside the known days, new ones numbered inside their bucket from 0.

    Args:
        seen: from `seen_ids`.
        known: the vocabulary; None: empty.
        min_count: rows that a new id must have.

    Returns:
        id, first_seen, last_seen, `_bucket`, `_old` (its index; null: new), `_number` (of a new one).
    """
    if known is None:
        compared = seen.withColumn(_OLD, F.lit(None).cast("int"))
    else:
        old = known.select(
            hash64(F.col("id")).alias(_HASH),
            F.col("index").alias(_OLD),
            F.col("first_seen").alias("_first"),
            F.col("last_seen").alias("_last"),
        )
        wider = (F.col("first_seen") < F.col("_first")) | (F.col("last_seen") > F.col("_last"))
        compared = seen.join(old, _HASH, "left").where(F.col(_OLD).isNull() | wider).drop("_first", "_last")
    compared = compared.where(F.col(_OLD).isNotNull() | (F.col("count") >= min_count))
    inside = Window.partitionBy(_BUCKET, F.col(_OLD).isNull()).orderBy(_HASH, "id")
    same_hash = F.coalesce(F.lag(_HASH).over(inside) == F.col(_HASH), F.lit(False))
    numbered = compared.withColumns({_NUMBER: F.dense_rank().over(inside) - 1, "_same": same_hash})
    return numbered.where(~F.col("_same")).select("id", "first_seen", "last_seen", _BUCKET, _OLD, _NUMBER)


def encode(rows: DataFrame, hashed: str, vocabulary: DataFrame, to: str) -> DataFrame:
    """Add the index of each row's id as column `to`, UNKNOWN_INDEX where the vocabulary lacks it.

    Args:
        rows: with `hashed`.
        hashed: column of `hash64(id)`.
        vocabulary: id, index.
        to: name of the index column; replaces one of that name.
    """
    indices = vocabulary.select(hash64(F.col("id")).alias("_key"), F.col("index").alias("_index"))
    small = vocabulary.count() * BROADCAST_BYTES <= memory_of(rows.sparkSession)
    joined = rows.join(indices.hint("broadcast" if small else "shuffle_hash"), F.col(hashed) == F.col("_key"), "left")
    return joined.withColumn(to, F.coalesce("_index", F.lit(UNKNOWN_INDEX))).drop("_key", "_index")


def id_column(column: str, settings: IdSettings) -> Column:
    """The ids that a vocabulary counts: those of the log or, where they are hashed, `bucket <number>`."""
    if not settings.buckets:
        return F.col(column)
    number = F.pmod(hash64("buckets", F.col(column)), F.lit(settings.buckets))
    return F.when(F.col(column).isNotNull(), F.concat(F.lit("bucket "), number.cast("string")))


def _count(numbered: DataFrame) -> tuple[list[int], int]:
    """New ids in each bucket, and old ones whose days have changed."""
    is_new = F.col(_OLD).isNull().cast("long")
    counted = numbered.groupBy(_BUCKET).agg(F.sum(is_new).alias("new"), F.sum(1 - is_new).alias("changed")).collect()
    new = {row[_BUCKET]: row["new"] for row in counted}
    return [new.get(number, 0) for number in range(BUCKETS)], sum(row["changed"] for row in counted)


def _entries(numbered: DataFrame, new: list[int], start: int) -> DataFrame:
    """Vocabulary rows of the new ids: numbered from `start`, one bucket after the other."""
    offsets = F.array(*(F.lit(start + sum(new[:number])) for number in range(BUCKETS)))
    index = (F.get(offsets, F.col(_BUCKET)) + F.col(_NUMBER)).cast("int").alias("index")
    return numbered.where(F.col(_OLD).isNull()).select("id", index, "first_seen", "last_seen")


def _widen(lake: Lake, table: Table, numbered: DataFrame) -> None:
    """Widen the days of old ids; two jobs that do it at the same time come to the same in either order."""
    days = numbered.where(F.col(_OLD).isNotNull()).select("id", F.col(_OLD).alias("index"), "first_seen", "last_seen")
    lake.merge(
        table,
        days,
        on="old.`index` = new.`index`",
        update={
            "first_seen": "least(old.first_seen, new.first_seen)",
            "last_seen": "greatest(old.last_seen, new.last_seen)",
        },
    )
