"""Finds the ids that vocabularies lack, and describes domains, by one scan of the clicks.

Single rows are not shuffled: a task groups its rows by id and sends each range of hashes as one packed row. The task
that receives a range merges its ids, removes known ones and sorts the others by their hashes. Grouping and numbering by
Spark's own operators took 1.4 times as long (benchmarks/README.md).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.constants import constants
from mamdr_core.lake.core.hashing import hash64, partition_keys

DOMAIN = "domain"
GROUPED_ROWS, GROUPED_BYTES = 1 << 20, 1 << 28
"""Number, or size, of the ids of a column that a task collects before it groups and sends them."""
_KEYS = ("hash", "id")
_KNOWN, _KNOWN_HASH = "known", "known_hash"
"""Columns of rows that are known ids instead of clicks: the column of the ids, and the hash."""
_AGGREGATES = {"rows": "sum", "ds": "min", "newest": "max", "positives": "sum", "unsplit": "sum"}
"""How the facts of an id are merged; only domains have the last three."""
_SENT = pa.schema([("column", pa.string()), ("range", pa.int32()), ("is_known", pa.bool_()), ("ids", pa.binary())])
_FOUND = pa.schema([("column", pa.string()), ("range", pa.int32()), ("count", pa.int32()), ("ids", pa.binary())])
_ENTRIES = pa.schema([("id", pa.string()), ("index", pa.int32()), ("first_seen", pa.date32())])

Batches = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class UnknownIds:
    """Result of `find_unknown_ids`.

    Attributes:
        packed: a row for each column and range of hashes with new ids; on the driver if they were found there.
        counts: by column, number of new ids by range.
        domains: if requested, of each domain: domain (the id), `hash` of the id (unsigned), rows, positives, first day
            `ds`, last day `newest`, and, if rows have `split`, `unsplit`, the number of rows without one.
    """

    packed: DataFrame | pa.Table
    counts: Mapping[str, Mapping[int, int]]
    domains: list[dict[str, Any]]

    @property
    def on_driver(self) -> bool:
        """Whether the ids are on the driver."""
        return isinstance(self.packed, pa.Table)

    def entries(self, spark: SparkSession, column: str, start: int) -> DataFrame:
        """The new ids of a column: id, index from `start` in the order of their hashes, and first_seen."""
        counts = self.counts[column]
        firsts = list(accumulate((counts.get(number, 0) for number in range(max(counts, default=0))), initial=start))
        if isinstance(self.packed, DataFrame):
            packed = self.packed.where(F.col("column") == column)
            return packed.mapInArrow(_number(firsts), from_arrow_schema(_ENTRIES))
        packed = self.packed.filter(pc.equal(self.packed["column"], column))
        entries = pa.Table.from_batches(_number(firsts)(packed.to_batches()), _ENTRIES)
        return spark.createDataFrame(entries, from_arrow_schema(_ENTRIES))


def find_unknown_ids(
    rows: DataFrame,
    min_counts: Mapping[str, int],
    known: Mapping[str, DataFrame],
    keep: Keep,
    domains: bool = False,
    on_driver: bool = False,
) -> UnknownIds:
    """Find the ids of columns that are not known, and describe domains.

    New ids are ordered by their hashes, whatever the order and partitions of the rows.

    Args:
        rows: rows with the columns of ids (null: no id) and `ds`; for domains also with `domain` and `label`.
        min_counts: by column of ids, the minimum number of rows of an id.
        known: by column, a frame with the column `id`.
        keep: persists the packed ids.
        domains: whether domains are described as well.
        on_driver: collect the ids of the rows on the driver: for few rows, which are grouped there before a task has
            started Python.
    """
    columns = [*min_counts, DOMAIN] if domains else list(min_counts)
    facts = rows.select("ds", *_facts(rows, columns))
    for name, frame in known.items():
        hashes = frame.select(F.lit(name).alias(_KNOWN), hash64(F.col("id")).alias(_KNOWN_HASH))
        facts = facts.unionByName(hashes, allowMissingColumns=True)
    packed: DataFrame | pa.Table
    if on_driver:
        sent = _send(columns, 1)(facts.toArrow().to_batches())
        packed = pa.Table.from_batches(_merge(min_counts)(sent), _FOUND)
        found = packed.to_pylist()
    else:
        ranges = int(str(rows.sparkSession.conf.get("spark.sql.shuffle.partitions")))
        receiver = F.get(constants(partition_keys(ranges)), F.col("range"))
        packed_rows = facts.mapInArrow(_send(columns, ranges), from_arrow_schema(_SENT)).repartition(ranges, receiver)
        packed = keep(packed_rows.mapInArrow(_merge(min_counts), from_arrow_schema(_FOUND)))
        domains_only = F.when(F.col("column") == DOMAIN, F.col("ids")).alias("ids")
        found = packed.select("column", "range", "count", domains_only).toArrow().to_pylist()
    counts = {column: {row["range"]: row["count"] for row in found if row["column"] == column} for column in min_counts}
    described = [_unpack(row["ids"]) for row in found if row["column"] not in counts]
    named = [
        part.rename_columns([DOMAIN if name == "id" else name for name in part.column_names]) for part in described
    ]
    return UnknownIds(packed, counts, [each for part in named for each in part.to_pylist()])


def _facts(rows: DataFrame, columns: Sequence[str]) -> list[Column]:
    """Ids and hashes of the columns, by their numbers; for domains also the counted facts of a row."""
    facts = []
    for number, column in enumerate(columns):
        ids = F.col(f"`{column}`")
        is_array = isinstance(rows.schema[column].dataType, T.ArrayType)
        hashes = F.transform(ids, lambda value: hash64(value)) if is_array else hash64(ids)
        facts += [ids.alias(f"ids_{number}"), hashes.alias(f"hashes_{number}")]
    if DOMAIN in columns:
        facts.append(F.col("label").alias("positives"))
        facts += [F.col("split").isNull().cast("int").alias("unsplit")] if "split" in rows.columns else []
    return facts


def _send(columns: Sequence[str], ranges: int) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Group the ids of a task's rows, and pack each range of hashes; known ids are packed without grouping."""

    def send(batches: Batches) -> Iterator[pa.RecordBatch]:
        collected = defaultdict[tuple[str, bool], list[pa.Table]](list)
        for batch in batches:
            for kind, ids in _by_column(batch, columns):
                tables = collected[kind]
                tables.append(ids)
                if sum(map(len, tables)) >= GROUPED_ROWS or sum(table.nbytes for table in tables) >= GROUPED_BYTES:
                    yield _in_ranges(*kind, collected.pop(kind), ranges)
        for kind, tables in collected.items():
            yield _in_ranges(*kind, tables, ranges)

    return send


def _by_column(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[tuple[tuple[str, bool], pa.Table]]:
    """The ids of a batch by column, and whether they are known."""
    if _KNOWN in batch.schema.names:
        for column in batch.column(_KNOWN).drop_null().unique().to_pylist():
            hashes = batch.filter(pc.equal(batch.column(_KNOWN), column)).column(_KNOWN_HASH)
            yield (column, True), pa.table({"hash": hashes.view(pa.uint64())})
        batch = batch.filter(batch.column(_KNOWN).is_null())
    for number, column in enumerate(columns if len(batch) else ()):
        yield (column, False), _ids_of(batch, number, column == DOMAIN)


def _ids_of(batch: pa.RecordBatch, number: int, is_domain: bool) -> pa.Table:
    """The ids of one column in a batch with their facts, one row per occurrence."""
    ids, hashes, days = batch.column(f"ids_{number}"), batch.column(f"hashes_{number}"), batch.column("ds")
    facts = {"ds": days}
    if is_domain:
        counted = [name for name in ("positives", "unsplit") if name in batch.schema.names]
        facts |= {"newest": days, **{name: batch.column(name) for name in counted}}
    if pa.types.is_list(ids.type):
        parents = pc.list_parent_indices(ids)
        facts = {name: values.take(parents) for name, values in facts.items()}
        ids, hashes = ids.flatten(), hashes.flatten()
    rows = np.ones(len(ids), np.int64)
    table = pa.table({"hash": hashes.view(pa.uint64()), "id": ids, "rows": rows, **facts})
    return table.filter(pc.is_valid(ids)) if ids.null_count else table


def _grouped(tables: Sequence[pa.Table]) -> pa.Table:
    """One row per id, with its merged facts."""
    table = pa.concat_tables(tables)
    facts = [(name, how) for name, how in _AGGREGATES.items() if name in table.column_names]
    grouped = table.group_by(list(_KEYS), use_threads=False).aggregate(facts)
    return grouped.select([*_KEYS, *map("_".join, facts)]).rename_columns([*_KEYS, *(name for name, _ in facts)])


def _in_ranges(column: str, is_known: bool, tables: Sequence[pa.Table], ranges: int) -> pa.RecordBatch:
    """A row for each range of hashes, as unsigned numbers, with packed ids."""
    ids = pa.concat_tables(tables) if is_known else _grouped(tables)
    range_of_ids = (ids["hash"].to_numpy() >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32)
    range_of_ids = range_of_ids.astype(np.uint16 if ranges <= 1 << 16 else np.uint32)  # numpy sorts 16 bits by radix
    order = np.argsort(range_of_ids, kind="stable")
    ids, edges = ids.take(order), np.searchsorted(range_of_ids[order], np.arange(ranges + 1))
    parts = [(number, ids[first:last]) for number, (first, last) in enumerate(pairwise(edges)) if first < last]
    rows = [{"column": column, "range": number, "is_known": is_known, "ids": _pack(part)} for number, part in parts]
    return pa.RecordBatch.from_pylist(rows, _SENT)


def _merge(min_counts: Mapping[str, int]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Merge the ids of each received range: new ids sorted by hash with their first days, and all facts of domains."""

    def merge(batches: Batches) -> Iterator[pa.RecordBatch]:
        seen, known = defaultdict[tuple[str, int], list[pa.Table]](list), defaultdict[tuple[str, int], list[Any]](list)
        for row in (row for batch in batches for row in batch.to_pylist()):
            key, ids = (row["column"], row["range"]), _unpack(row["ids"])
            if row["is_known"]:
                known[key].append(ids["hash"].to_numpy())
            else:
                seen[key].append(ids)
        for (column, number), tables in seen.items():
            ids = _grouped(tables)
            if column in min_counts:
                ids = ids.filter(pc.greater_equal(ids["rows"], min_counts[column]))
            ids = ids.sort_by([(key, "ascending") for key in _KEYS])
            if column in min_counts:
                hashes = ids["hash"].to_numpy()
                is_new = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
                if (column, number) in known:
                    is_new &= ~np.isin(hashes, np.concatenate(known[column, number]))
                ids = ids.filter(is_new).select(["id", "ds"])
            if len(ids):
                found = {"column": column, "range": number, "count": len(ids), "ids": _pack(ids)}
                yield pa.RecordBatch.from_pylist([found], _FOUND)

    return merge


def _number(firsts: Sequence[int]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Unpack new ids, and number those of each range from its first index."""

    def number(batches: Batches) -> Iterator[pa.RecordBatch]:
        for row in (row for batch in batches for row in batch.to_pylist()):
            ids, first = _unpack(row["ids"]), firsts[row["range"]]
            index = np.arange(first, first + len(ids), dtype=np.int32)
            yield from pa.table([ids["id"], index, ids["ds"]], schema=_ENTRIES).combine_chunks().to_batches()

    return number


def _pack(ids: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ids.schema) as writer:
        writer.write_table(ids)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _unpack(packed: bytes) -> pa.Table:
    return pa.ipc.open_stream(packed).read_all()
