"""Vocabularies: append-only tables from id to a contiguous index that never changes.

Ids are identified by a 64-bit hash. Among 84 million ids the probability that two have equal hashes is 2 in 10,000;
these two would share an index, without other consequences.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.lake import IdSettings
from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.few import small
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.session import memory_of
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.unknown_ids import UnknownIds, find_unknown_ids
from mamdr_core.runtime.errors import MamdrError
from schemas import UNKNOWN_INDEX, DeclaredTable

logger = logging.getLogger(__name__)

TRIES = 5
"""Maximum number of attempts to add ids, repeated if other jobs add ids first."""
BROADCAST_BYTES = 1_000
"""Executor memory in bytes, per id, that is needed to broadcast a vocabulary instead of shuffling it."""


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
        known: by column, the previous rows of the vocabulary; None: the table does not exist.
        unknown: the new ids by column and, if requested, the domains.
    """

    wanted: Sequence[Ids]
    rows: DataFrame
    known: Mapping[str, DataFrame | None]
    unknown: UnknownIds


def find_new_ids(
    lake: Lake, wanted: Sequence[Ids], rows: DataFrame, keep: Keep, domains: bool = False, on_driver: bool = False
) -> NewIds:
    """Find the ids that the vocabularies lack, by one query.

    New ids follow the existing ones in an order decided by hashes, so that the same days in the same order give the
    same indices, whatever the order and partitions of the rows. No task processes all ids.

    Args:
        rows: rows with the columns of ids (null: no id) and `ds`; for domains also with `domain` and `label`.
        keep: persists the new ids for `add_new_ids` and for readers of the indices.
        domains: whether domains are described as well.
        on_driver: collect the ids of the rows on the driver, for few rows.
    """
    known = {ids.column: read_known(lake, ids.table) for ids in wanted}
    existing = {column: frame for column, frame in known.items() if frame is not None}
    unknown = find_unknown_ids(rows, {ids.column: ids.min_count for ids in wanted}, existing, keep, domains, on_driver)
    return NewIds(wanted, rows, known, unknown)


def add_new_ids(lake: Lake, found: NewIds, keep: Keep) -> dict[str, Growth]:
    """Append new ids to the vocabularies; a vocabulary without new ids gets no commit.

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
            grown = _add(lake, ids, latest)
            if grown is not None:
                break
            logger.info("%s: another job added ids first; numbering the new ids again", ids.table.name)
            latest = find_new_ids(lake, [ids], found.rows, keep, on_driver=found.unknown.on_driver)
        else:
            raise overtaken(ids.table)
        logger.info("%s: %d, %d of them new", ids.table.name, grown.total, grown.new)
        growth[ids.column] = grown
    return growth


def _add(lake: Lake, ids: Ids, new_ids: NewIds) -> Growth | None:
    """Append the new ids of one vocabulary; None: another job has added ids in the meantime."""
    known, unknown = new_ids.known[ids.column], new_ids.unknown
    before, new = known.count() if known is not None else 0, sum(unknown.counts[ids.column].values())
    entries = unknown.entries(lake.spark, ids.column, before)
    added = entries.coalesce(1) if unknown.on_driver else entries
    if not new:
        lake.create(ids.table)
    elif not lake.append_to(ids.table, added, rows_before=before):
        return None
    indices = [frame.select("id", "index") for frame in (known, entries) if frame is not None]
    return Growth(before + new, new, reduce(DataFrame.unionByName, indices))


def unchanged_vocabulary(lake: Lake, table: DeclaredTable) -> Growth:
    """A vocabulary without new ids."""
    known = lake.read(table, lake.version(table))
    return Growth(known.count(), 0, known.select("id", "index"))


def overtaken(table: DeclaredTable) -> MamdrError:
    """The error for a vocabulary to which other jobs kept adding ids."""
    return MamdrError(f"{table.name}: other jobs kept adding ids at the same time; run again when they have ended")


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


def read_known(lake: Lake, table: DeclaredTable) -> DataFrame | None:
    """The rows of a vocabulary; None: it does not exist."""
    return lake.read(table, lake.version(table)) if lake.exists(table) else None
