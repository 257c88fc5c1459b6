"""Vocabularies: append-only tables from id to a contiguous index that never changes.

Ids are identified by a 64-bit hash. Among 84 million the chance that any two share one is 2 in 10,000; the two would
share an index, and nothing else would go wrong.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate
from operator import or_

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config.lake import IdSettings
from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.few import gathered, is_few, local_frame, small
from mamdr_core.lake.core.hashing import bucket, hash64
from mamdr_core.lake.core.session import memory_of
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
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
_DESCRIBED = ("rows", "positives", "ds", "newest", "unsplit")


@dataclass(frozen=True)
class Growth:
    """What an update did to a vocabulary.

    `indices`: id and index of every id, read from what was found where it can be, as a table that has just been written
    takes two Spark jobs to open.
    """

    total: int
    new: int
    indices: DataFrame = field(compare=False, repr=False)


@dataclass(frozen=True)
class Ids:
    """What a vocabulary is to know: its declaration, the column of the ids, and rows that an id must have."""

    table: Table
    column: str
    min_count: int = 1


@dataclass(frozen=True)
class NewIds:
    """What `find_new_ids` found.

    Attributes:
        wanted: the vocabularies.
        rows: that it looked at.
        numbered: column (that the id is from), id, first_seen, and its `_number` from 0 in its `_bucket`.
        counts: by column, new ids in each bucket that has some.
        known: by column, the vocabulary's declaration and rows, as they were; None: there is none.
        domains: id, `hash` of it, rows, positives, first day `ds`, last `newest`, and `unsplit`, rows without a split
            that the log gives; where these were asked for.
    """

    wanted: Sequence[Ids]
    rows: DataFrame
    numbered: DataFrame
    counts: Mapping[str, Mapping[int, int]]
    known: Mapping[str, tuple[Table, DataFrame | None]]
    domains: list[Row]


def find_new_ids(lake: Lake, wanted: Sequence[Ids], rows: DataFrame, keep: Keep, domains: bool = False) -> NewIds:
    """Find the ids that vocabularies lack, of all of them in one query, and number them.

    New ids follow the existing ones in an order decided by hashes, so that the same days in the same order give the
    same indices, whatever the order and partitions of the rows. No task sees more than a part of the ids.

    Args:
        lake: where the vocabularies are.
        wanted: the vocabularies.
        rows: with the columns (null: no id) and `ds`; for domains `domain` and `label` too.
        keep: keeps what was numbered for `add_new_ids`, and for whoever reads the indices.
        domains: whether the domains of the rows are described too.
    """
    known = {ids.column: _known(lake, ids.table) for ids in wanted}
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
    """Append what was found to the vocabularies; no commit to one that lacks nothing.

    Where another job has added ids in the meantime, the new ones are numbered again behind its own.

    Returns:
        What was done, by column. The indices can be read as long as what was found is kept.

    Raises:
        MamdrError: other jobs kept adding ids at the same time.
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
            raise _overtaken(ids.table)
        logger.info("%s: %d, %d of them new", ids.table.name, grown.total, grown.new)
        growth[ids.column] = grown
    return growth


def _add(lake: Lake, column: str, found: NewIds) -> Growth | None:
    """Append the new ids of one column; None: another job has appended some meanwhile."""
    (table, known), counts = found.known[column], found.counts[column]
    before = known.count() if known is not None else 0
    new = sum(counts.values())
    entries = _entries(found.numbered.where(F.col("column") == column), counts, before)
    if not new:
        lake.create(table)
    elif not lake.append_to(table, _dated(entries), rows_before=before):
        return None
    indices = [frame.select("id", "index") for frame in (known, entries) if frame is not None]
    return Growth(before + new, new, reduce(DataFrame.unionByName, indices))


def grown(lake: Lake, table: Table) -> Growth:
    """The vocabulary as it is now, where there is nothing to add."""
    known = lake.read(table, lake.version(table))
    return Growth(known.count(), 0, known.select("id", "index"))


def update_domains(lake: Lake, spark: SparkSession, seen: Iterable[Row]) -> tuple[Growth, dict[str, int]]:
    """Give every domain an index on the driver, which holds a few numbers of each anyway, in the order of ids' hashes.

    Args:
        lake: where the vocabulary is.
        spark: the session.
        seen: domain (its id), `hash` of it, and its first day `ds`.

    Returns:
        What was done, with the indices of those that were seen; and every index by id.

    Raises:
        MamdrError: other jobs kept adding domains at the same time.
    """
    # As other vocabularies: in the order of the hash without its sign.
    ordered = sorted(seen, key=lambda row: (row["hash"] % (1 << 64), row["domain"]))
    for _ in range(TRIES):
        table, known = _known(lake, TABLES["domains"])
        indices = {row["id"]: row["index"] for row in known.collect()} if known is not None else {}
        before = len(indices)
        new = [row for row in ordered if row["domain"] not in indices]
        entries = [(row["domain"], before + place, row["ds"]) for place, row in enumerate(new)]
        rows = local_frame(spark, entries, spark_schema(TABLES["domains"])).coalesce(1)
        if new and not lake.append_to(table, _dated(rows), rows_before=before):
            logger.info("domains: another job was first; numbering again")
            continue
        logger.info("domains: %d, %d of them new", before + len(new), len(new))
        indices |= {name: index for name, index, _ in entries}
        encoded = [(row["domain"], indices[row["domain"]]) for row in ordered]
        return Growth(len(indices), len(new), local_frame(spark, encoded, "id string, index int")), indices
    raise _overtaken(TABLES["domains"])


def _overtaken(table: Table) -> MamdrError:
    return MamdrError(f"{table.name}: other jobs kept adding ids at the same time; run again when they have ended")


def _numbered(
    rows: DataFrame, wanted: Sequence[Ids], known: Mapping[str, DataFrame | None], domains: bool
) -> DataFrame:
    """The ids that are not known, numbered inside their bucket from 0, as `NewIds` has them.

    Domains, where they are asked for, are among them, all of them, and alone have `described`.
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
    """Every id, once for each column that it is in: column, id, rows, its first day `ds`; of domains _DESCRIBED too."""
    found = [F.count("*").alias("rows"), F.min("ds").alias("ds")]
    if domains:
        found += [F.sum("label").alias("positives"), F.max("ds").alias("newest"), F.sum("unsplit").alias("unsplit")]
    is_unsplit = F.col("split").isNull() if "split" in rows.columns else F.lit(False)
    # One scan. Spark would not recognise what was kept of grouping sets, where a query reads it twice.
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
    """A row's entries of single ids, and one entry for each id of its bags and sequences."""
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
    fits = size * BROADCAST_BYTES <= memory_of(rows.sparkSession)
    joined = rows.join(small(indices) if fits else indices.hint("shuffle_hash"), F.col(hashed) == F.col("_key"), "left")
    return joined.withColumn(to, F.coalesce("_index", F.lit(UNKNOWN_INDEX))).drop("_key", "_index")


def id_column(column: SparkColumn, settings: IdSettings) -> SparkColumn:
    """The ids that a vocabulary counts: those of the log or, where they are hashed, `bucket <number>`."""
    if not settings.buckets:
        return column
    number = F.pmod(hash64("buckets", column), F.lit(settings.buckets))
    return F.when(column.isNotNull(), F.concat(F.lit("bucket "), number.cast("string")))


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


def _entries(numbered: DataFrame, new: Mapping[int, int], start: int) -> DataFrame:
    """Vocabulary rows of the new ids: numbered from `start`, one bucket after the other."""
    firsts = accumulate((new.get(number, 0) for number in range(BUCKETS)), initial=start)
    of_bucket = F.expr(f"array({','.join(map(str, firsts))})")
    index = (F.get(of_bucket, F.col(_BUCKET)) + F.col(_NUMBER)).cast("int").alias("index")
    return numbered.select("id", index, "first_seen")
