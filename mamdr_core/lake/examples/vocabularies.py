"""Vocabularies: append-only tables from id to a contiguous index that never changes.

Ids are identified by a 64-bit hash. Among 84 million ids the probability that two have equal hashes is 2 in 10,000;
these two would share an index, without other consequences.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate
from operator import or_

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Row, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config.lake import IdSettings
from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.constants import constants
from mamdr_core.lake.core.few import gathered, is_few, small
from mamdr_core.lake.core.hashing import bucket, hash64
from mamdr_core.lake.core.session import memory_of
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from schemas import UNKNOWN_INDEX, Column, DeclaredTable

logger = logging.getLogger(__name__)

BUCKETS = 1024
"""Number of independent buckets in which new ids are numbered; must not change, because indices depend on it."""
TRIES = 5
"""Maximum number of attempts to add ids, repeated if other jobs add ids first."""
BROADCAST_BYTES = 1_000
"""Memory of an executor per id, in bytes, from which on a vocabulary is broadcast instead of shuffled."""
_HASH, _BUCKET, _NUMBER = "_hash", "_bucket", "_number"
_DESCRIBED = ("rows", "positives", "ds", "newest", "unsplit")


@dataclass(frozen=True)
class Growth:
    """A vocabulary after an update.

    Attributes:
        total: number of ids.
        new: number of new ids.
        indices: id and index of every id; does not read the new table version, which would take two Spark jobs to open.
    """

    total: int
    new: int
    indices: DataFrame = field(compare=False, repr=False)


@dataclass(frozen=True)
class Ids:
    """A vocabulary to extend: its table, the column with its ids, and the minimum number of rows of an id."""

    table: DeclaredTable
    column: str
    min_count: int = 1


@dataclass(frozen=True)
class NewIds:
    """Result of `find_new_ids`.

    Attributes:
        rows: the rows that were searched.
        numbered: new ids: column, id, first_seen, and `_number` from 0 within their `_bucket`.
        counts: by column, number of new ids by bucket.
        known: by column, declaration and previous rows of the vocabulary; None: the table does not exist.
        domains: if requested, id, `hash` of the id, rows, positives, first day `ds`, last day `newest`, and `unsplit`,
            the number of rows without a split given by the log.
    """

    wanted: Sequence[Ids]
    rows: DataFrame
    numbered: DataFrame
    counts: Mapping[str, Mapping[int, int]]
    known: Mapping[str, tuple[DeclaredTable, DataFrame | None]]
    domains: list[Row]


def find_new_ids(lake: Lake, wanted: Sequence[Ids], rows: DataFrame, keep: Keep, domains: bool = False) -> NewIds:
    """Find and number the ids that the vocabularies lack, by one query.

    New ids follow the existing ones in an order decided by hashes, so that the same days in the same order give the
    same indices, whatever the order and partitions of the rows. No task processes all ids.

    Args:
        rows: rows with the columns of ids (null: no id) and `ds`; for domains also with `domain` and `label`.
        keep: persists the numbered ids for `add_new_ids` and for readers of the indices.
        domains: whether domains are described as well.
    """
    known = {ids.column: read_known(lake, ids.table) for ids in wanted}
    numbered = keep(_numbered(rows, wanted, {column: frame for column, (_, frame) in known.items()}, domains))
    found = numbered.groupBy("column", _BUCKET).agg(
        F.count("*").alias("count"), F.collect_list("described").alias("described")
    )
    counts = {ids.column: dict[int, int]() for ids in wanted}
    described = list[Row]()
    for row in found.collect():
        if row["column"] in counts:
            counts[row["column"]][row[_BUCKET]] = row["count"]
        described += row["described"]
    return NewIds(wanted, rows, numbered, counts, known, described)


def add_new_ids(lake: Lake, found: NewIds, keep: Keep) -> dict[str, Growth]:
    """Append new ids to the vocabularies; there is no commit to a complete vocabulary.

    If another job has added ids in the meantime, the new ids are numbered again.

    Returns:
        The vocabularies by column; their indices can be read while the numbered ids are persisted.

    Raises:
        MamdrError: other jobs kept adding ids.
    """
    growth = {}
    for ids in found.wanted:
        latest = found
        for _ in range(TRIES):
            grown = _add(lake, ids.column, latest)
            if grown is not None:
                break
            logger.info("%s: another job was first; numbering again", ids.table.name)
            latest = find_new_ids(lake, [ids], found.rows, keep)
        else:
            raise overtaken(ids.table)
        logger.info("%s: %d, %d of them new", ids.table.name, grown.total, grown.new)
        growth[ids.column] = grown
    return growth


def _add(lake: Lake, column: str, found: NewIds) -> Growth | None:
    """Append the new ids of one column; None: another job has added ids in the meantime."""
    (table, known), counts = found.known[column], found.counts[column]
    before = known.count() if known is not None else 0
    new = sum(counts.values())
    entries = _entries(found.numbered.where(F.col("column") == column), counts, before)
    if not new:
        lake.create(table)
    elif not lake.append_to(table, with_last_seen(entries), rows_before=before):
        return None
    indices = [frame.select("id", "index") for frame in (known, entries) if frame is not None]
    return Growth(before + new, new, reduce(DataFrame.unionByName, indices))


def grown(lake: Lake, table: DeclaredTable) -> Growth:
    """A vocabulary without new ids."""
    known = lake.read(table, lake.version(table))
    return Growth(known.count(), 0, known.select("id", "index"))


def overtaken(table: DeclaredTable) -> MamdrError:
    """The error for a vocabulary to which other jobs kept adding ids."""
    return MamdrError(f"{table.name}: other jobs kept adding ids at the same time; run again when they have ended")


def _numbered(
    rows: DataFrame, wanted: Sequence[Ids], known: Mapping[str, DataFrame | None], domains: bool
) -> DataFrame:
    """Number the ids without an index from 0 within their bucket, as in `NewIds.numbered`.

    If requested, all domains are included, and only they have a value in `described`.
    """
    seen = _seen(rows, [ids.column for ids in wanted], domains).withColumn(_HASH, hash64(F.col("id")))
    is_rare = [(F.col("column") == ids.column) & (F.col("rows") < ids.min_count) for ids in wanted if ids.min_count > 1]
    if is_rare:
        seen = seen.where(~reduce(or_, is_rare))
    hashes = [
        frame.select(F.lit(column).alias("column"), hash64(F.col("id")).alias(_HASH))
        for column, frame in known.items()
        if frame is not None
    ]
    if hashes:
        all_known = reduce(DataFrame.unionByName, hashes)
        all_known = small(all_known) if is_few(rows.sparkSession) else all_known
        seen = seen.join(all_known, ["column", _HASH], "left_anti")
    inside = Window.partitionBy("column", _BUCKET).orderBy(_HASH, "id")
    same_hash = F.coalesce(F.lag(_HASH).over(inside) == F.col(_HASH), F.lit(False))
    described = F.lit(None).cast("string")
    if domains:
        same_hash &= F.col("column") != "domain"
        described = F.struct(F.col("id").alias("domain"), F.col(_HASH).alias("hash"), *_DESCRIBED)
        described = F.when(F.col("column") == "domain", described)
    numbered = seen.withColumn(_BUCKET, bucket(F.col(_HASH), BUCKETS)).withColumns(
        {_NUMBER: F.dense_rank().over(inside) - 1, "_same": same_hash, "described": described}
    )
    first_seen = F.col("ds").alias("first_seen")
    return numbered.where(~F.col("_same")).select("column", "id", first_seen, _BUCKET, _NUMBER, "described")


def _seen(rows: DataFrame, columns: Sequence[str], domains: bool) -> DataFrame:
    """Group rows by column and id: column, id, rows, first day `ds`; with domains also the columns _DESCRIBED."""
    found = [F.count("*").alias("rows"), F.min("ds").alias("ds")]
    if domains:
        found += [F.sum("label").alias("positives"), F.max("ds").alias("newest"), F.sum("unsplit").alias("unsplit")]
    is_unsplit = F.col("split").isNull() if "split" in rows.columns else F.lit(False)
    # An array per row needs one scan. Spark cannot reuse persisted grouping sets if a query reads them twice.
    several = [column for column in columns if isinstance(rows.schema[column].dataType, T.ArrayType)]
    held = [
        F.struct(
            F.lit(column).alias("column"),
            F.col(f"`{column}`").alias("id"),
            (F.col("label") if domains and column == "domain" else F.lit(0)).cast("bigint").alias("label"),
            (is_unsplit if domains and column == "domain" else F.lit(False)).cast("bigint").alias("unsplit"),
        )
        for column in ([*columns, "domain"] if domains else columns)
        if column not in several
    ]
    ids = gathered(rows).select(F.inline(_listed(held, several)), "ds").where(F.col("id").isNotNull())
    return ids.groupBy("column", "id").agg(*found)


def _listed(held: Sequence[SparkColumn], several: Sequence[str]) -> SparkColumn:
    """The entries of a row: one for each single id, and one for each id of its bags and sequences."""
    if not several:
        return F.array(*held)
    entries = [_entries_of(column) for column in several]
    empty = F.array().cast("array<struct<column:string,id:string,label:bigint,unsplit:bigint>>")
    return F.concat(F.array(*held) if held else empty, *(F.coalesce(each, empty) for each in entries))


def _entries_of(column: str) -> SparkColumn:
    none = F.lit(0).cast("bigint")
    named = [F.lit(column).alias("column"), none.alias("label"), none.alias("unsplit")]
    return F.transform(f"`{column}`", lambda value: F.struct(named[0], value.alias("id"), *named[1:]))


def encode(rows: DataFrame, hashed: str, vocabulary: DataFrame, to: str, size: int | None = None) -> DataFrame:
    """Add the index of each row's id as column `to`, UNKNOWN_INDEX if the vocabulary lacks the id.

    Args:
        hashed: column with `hash64(id)`.
        vocabulary: id, index.
        to: name of the new column; replaces an existing one.
        size: number of ids, if known.
    """
    size = vocabulary.count() if size is None else size
    indices = vocabulary.select(hash64(F.col("id")).alias("_key"), F.col("index").alias("_index"))
    joined = rows.join(joinable(indices, size), F.col(hashed) == F.col("_key"), "left")
    return joined.withColumn(to, F.coalesce("_index", F.lit(UNKNOWN_INDEX))).drop("_key", "_index")


def joinable(indices: DataFrame, size: int) -> DataFrame:
    """Indices of `size` ids as the right side of a join: broadcast if they fit into memory, otherwise shuffled."""
    fits = size * BROADCAST_BYTES <= memory_of(indices.sparkSession)
    return small(indices) if fits else indices.hint("shuffle_hash")


def id_column(column: SparkColumn, settings: IdSettings) -> SparkColumn:
    """The ids of a vocabulary: those of the log or, if they are hashed to buckets, `bucket <number>`."""
    if not settings.buckets:
        return column
    number = F.pmod(hash64("buckets", column), F.lit(settings.buckets))
    return F.when(column.isNotNull(), F.concat(F.lit("bucket "), number.cast("string")))


def read_known(lake: Lake, table: DeclaredTable) -> tuple[DeclaredTable, DataFrame | None]:
    """The declaration and rows of a vocabulary; None: it does not exist. Older ones are declared with last_seen."""
    if not lake.exists(table):
        return table, None
    known = lake.read(table, lake.version(table))
    if "last_seen" in known.columns:
        table = table.with_columns([Column("last_seen", "date", "not maintained: equal to first_seen")])
    return table, known


def with_last_seen(entries: DataFrame) -> DataFrame:
    """Add last_seen, which only older vocabularies have."""
    return entries.withColumn("last_seen", F.col("first_seen"))


def _entries(numbered: DataFrame, new: Mapping[int, int], start: int) -> DataFrame:
    """Vocabulary rows of new ids, numbered consecutively from `start`, bucket by bucket."""
    firsts = accumulate((new.get(number, 0) for number in range(BUCKETS)), initial=start)
    index = (F.get(constants(firsts), F.col(_BUCKET)) + F.col(_NUMBER)).cast("int").alias("index")
    return numbered.select("id", index, "first_seen")
