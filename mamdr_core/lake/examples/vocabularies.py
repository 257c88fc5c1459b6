"""Vocabularies: append-only tables from id to a contiguous index that never changes.

Ids are told apart by a 64-bit hash. Among 84 million the chance that any two share one is 2 in 10,000; the two would
share an index, and nothing else would go wrong.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.hashing import bucket, hash64
from mamdr_core.lake.core.session import memory_of
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.settings import IdSettings
from schemas import TABLES, UNKNOWN_INDEX, Column, Table
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)

BUCKETS = 1024
"""New ids are numbered in this many independent buckets; fixed, because the numbering depends on it."""
TRIES = 5
"""Times that ids are numbered again because another job was first."""
BROADCAST_BYTES = 1_000
"""A vocabulary is sent whole to every executor if so much of its memory falls to each id; a larger one is shuffled."""
_HASH, _BUCKET, _NUMBER = "_hash", "_bucket", "_number"


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
    for _ in range(TRIES):
        declared, known = _known(lake, table)
        before = known.count() if known is not None else 0
        with kept_frames() as keep:
            numbered = keep(number_new_ids(rows, column, known if before else None, min_count))
            new = _count(numbered)
            if not new:
                lake.create(table)
            elif not lake.append_to(declared, _dated(_entries(numbered, new, before)), rows_before=before):
                logger.info("%s: another job was first; numbering again", table.name)
                continue
        growth = Growth(total=before + sum(new.values()), new=sum(new.values()))
        logger.info("%s: %d, %d of them new", table.name, growth.total, growth.new)
        return growth
    raise _overtaken(table)


def grown(lake: Lake, table: Table) -> Growth:
    """The vocabulary as it is, where there is nothing to add."""
    return Growth(total=lake.read(table).count(), new=0)


def update_domains(lake: Lake, spark: SparkSession, seen: Iterable[Row]) -> tuple[Growth, dict[str, int]]:
    """Give every domain an index on the driver, which holds a few numbers of each anyway, in the order of ids' hashes.

    Args:
        lake: where the vocabulary is.
        spark: the session.
        seen: domain (its id), `hash` of it, and its first day `ds`.

    Returns:
        What was done, and every index by id.

    Raises:
        MamdrError: other jobs kept adding domains at the same time.
    """
    # As `update_vocabulary` does: in the order of the hash without its sign.
    ordered = sorted(seen, key=lambda row: (row["hash"] % (1 << 64), row["domain"]))
    for _ in range(TRIES):
        table, known = _known(lake, TABLES["domains"])
        indices = {row["id"]: row["index"] for row in known.collect()} if known is not None else {}
        before = len(indices)
        new = [row for row in ordered if row["domain"] not in indices]
        entries = [(row["domain"], before + place, row["ds"]) for place, row in enumerate(new)]
        rows = spark.createDataFrame(entries, spark_schema(TABLES["domains"])).coalesce(1)
        if new and not lake.append_to(table, _dated(rows), rows_before=before):
            logger.info("domains: another job was first; numbering again")
            continue
        logger.info("domains: %d, %d of them new", before + len(new), len(new))
        indices |= {name: index for name, index, _ in entries}
        return Growth(total=len(indices), new=len(new)), indices
    raise _overtaken(TABLES["domains"])


def _overtaken(table: Table) -> MamdrError:
    return MamdrError(f"{table.name}: other jobs kept adding ids at the same time; run again when they have ended")


def number_new_ids(rows: DataFrame, column: str, known: DataFrame | None, min_count: int = 1) -> DataFrame:
    """The ids of `rows[column]` that are not known, numbered inside their bucket from 0.

    Args:
        rows: with `column` (null: no id) and `ds`.
        column: the ids.
        known: the vocabulary; None: empty.
        min_count: rows that an id must have.

    Returns:
        id, first_seen, `_bucket`, `_number`.
    """
    ids = rows.where(F.col(column).isNotNull()).select(F.col(column).alias("id"), "ds")
    seen = (
        ids.groupBy(hash64(F.col("id")).alias(_HASH), "id")
        .agg(F.min("ds").alias("first_seen"), F.count("*").alias("count"))
        .where(F.col("count") >= min_count)
    )
    if known is not None:
        seen = seen.join(known.select(hash64(F.col("id")).alias(_HASH)), _HASH, "left_anti")
    inside = Window.partitionBy(_BUCKET).orderBy(_HASH, "id")
    same_hash = F.coalesce(F.lag(_HASH).over(inside) == F.col(_HASH), F.lit(False))
    numbered = seen.withColumn(_BUCKET, bucket(F.col(_HASH), BUCKETS)).withColumns(
        {_NUMBER: F.dense_rank().over(inside) - 1, "_same": same_hash}
    )
    return numbered.where(~F.col("_same")).select("id", "first_seen", _BUCKET, _NUMBER)


def encode(rows: DataFrame, hashed: str, vocabulary: DataFrame, to: str, size: int | None = None) -> DataFrame:
    """Add the index of each row's id as column `to`, UNKNOWN_INDEX where the vocabulary lacks it.

    Args:
        rows: with `hashed`.
        hashed: column of `hash64(id)`.
        vocabulary: id, index.
        to: name of the index column; replaces one of that name.
        size: rows of the vocabulary, where they are known.
    """
    size = vocabulary.count() if size is None else size
    indices = vocabulary.select(hash64(F.col("id")).alias("_key"), F.col("index").alias("_index"))
    small = size * BROADCAST_BYTES <= memory_of(rows.sparkSession)
    joined = rows.join(indices.hint("broadcast" if small else "shuffle_hash"), F.col(hashed) == F.col("_key"), "left")
    return joined.withColumn(to, F.coalesce("_index", F.lit(UNKNOWN_INDEX))).drop("_key", "_index")


def id_column(column: str, settings: IdSettings) -> SparkColumn:
    """The ids that a vocabulary counts: those of the log or, where they are hashed, `bucket <number>`."""
    if not settings.buckets:
        return F.col(column)
    number = F.pmod(hash64("buckets", F.col(column)), F.lit(settings.buckets))
    return F.when(F.col(column).isNotNull(), F.concat(F.lit("bucket "), number.cast("string")))


def _known(lake: Lake, table: Table) -> tuple[Table, DataFrame | None]:
    """The vocabulary as it is, None where there is none; declared with last_seen if earlier code made it so."""
    if not lake.exists(table):
        return table, None
    known = lake.read(table, lake.version(table))
    if "last_seen" in known.columns:
        table = table.with_columns([Column("last_seen", "date", "nothing keeps it up: equal to first_seen")])
    return table, known


def _dated(entries: DataFrame) -> DataFrame:
    """With last_seen too, which only an old vocabulary takes."""
    return entries.withColumn("last_seen", F.col("first_seen"))


def _count(numbered: DataFrame) -> dict[int, int]:
    """New ids in each bucket that has some."""
    return {row[_BUCKET]: row["count"] for row in numbered.groupBy(_BUCKET).count().collect()}


def _entries(numbered: DataFrame, new: Mapping[int, int], start: int) -> DataFrame:
    """Vocabulary rows of the new ids: numbered from `start`, one bucket after the other."""
    firsts = accumulate((new.get(number, 0) for number in range(BUCKETS)), initial=start)
    of_bucket = F.expr(f"array({','.join(map(str, firsts))})")
    index = (F.get(of_bucket, F.col(_BUCKET)) + F.col(_NUMBER)).cast("int").alias("index")
    return numbered.select("id", index, "first_seen")
