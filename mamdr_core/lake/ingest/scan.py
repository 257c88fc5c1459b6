"""Scans a load once: counts rows and times by day, and finds the keys (64-bit hashes) of duplicate events.

This dominates the time of ingest, because every event is compared with all others. Keys are shuffled as arrays: a task
sorts its keys and sends each range of them as one row, and the task that receives a range sorts the keys and looks for
equal neighbours. A shuffle and a hash table of single rows took 1.6 times as long (benchmarks/README.md).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.few import bytes_of, local_frame
from mamdr_core.lake.ingest.clicks import FILED, KEY, RULE
from mamdr_core.lake.ingest.load_counts import LoadCounts
from schemas import Rule

TASK_BYTES = 32 << 20
"""Bytes of the log for each task that compares keys."""
PACKED_KEYS = 1 << 20
"""Number of keys (8 MB) that a task collects before it sends them in ranges."""
_CELL, _ROWS, _FIRST, _LAST = "cell", "rows", "first", "last"
_COUNTS = pa.schema([(name, pa.int64()) for name in (_CELL, _ROWS, _FIRST, _LAST)])
_SENT = pa.schema([*_COUNTS, pa.field("range", pa.int32()), pa.field("keys", pa.binary())])
_FOUND = pa.schema([*_COUNTS, pa.field(KEY, pa.int64())])
# A row is encoded as ((day * _RULES + rule) * 2 + label) * _HOURS + hour, below 2^60; hours count from the year 1.
_RULES = 1 << 10
_HOURS = 1 << 27
_NO_DAY = -(1 << 22)
_EPOCH = date(1970, 1, 1)
_EPOCH_HOUR = (_EPOCH - date.min).days * 24
_HOUR = 3_600_000_000

Keys = NDArray[np.int64]
Batches = Iterable[pa.RecordBatch]
Span = tuple[int, int]
"""First and last event_time, in microseconds since 1970 (UTC)."""


@dataclass(frozen=True)
class Scan:
    """Result of a scan.

    Attributes:
        counts: rows by day and rule; duplicates still count as valid.
        times: by day, the span of whole hours with the times of its valid rows; empty if the log has no times.
        duplicate_keys: column `_key` of events that occur more than once.
        duplicates: number of these keys.
    """

    counts: LoadCounts
    times: Mapping[date, Span]
    duplicate_keys: DataFrame
    duplicates: int


def scan_rows(checked: DataFrame, rules: Sequence[Rule], has_times: bool, keep: Keep, on_driver: bool = False) -> Scan:
    """Count a load's rows and find its duplicate events.

    Args:
        checked: result of `apply_rules`.
        has_times: whether the log has event times; without them no duplicate can be found.
        keep: for the small frame that is found.
        on_driver: collect two numbers of each row on the driver: for few rows, which are compared there before a task
            has started Python.
    """
    names = [rule.name for rule in rules]
    key = F.col(KEY) if has_times else F.lit(None).cast("bigint")
    # Two numbers per row, since the time grows with every column that is sent.
    hour = F.when(key.isNotNull(), F.floor(F.unix_seconds("event_time") / 3600) + _EPOCH_HOUR).otherwise(0)
    facts = checked.select(key.alias(KEY), (_cell(names) * _HOURS + hour).alias(_CELL))
    counted, keys, count = _few(facts) if on_driver else _many(facts, _tasks(checked), keep)
    counts, times = LoadCounts(), dict[date, Span]()
    for cell, rows, *hours in counted:
        place, label = divmod(cell, 2)
        day, rule = divmod(place, _RULES)
        when = None if day == _NO_DAY else _EPOCH + timedelta(days=day)
        counts.add((when, names[rule - 1] if rule else None), rows, rows * label)
        if has_times and when and not rule:
            first, last = ((hour - _EPOCH_HOUR) * _HOUR for hour in hours)
            before = times.get(when, (first, last))
            times[when] = min(first, before[0]), max(last + _HOUR - 1, before[1])
    return Scan(counts, times, keys, count)


def _few(facts: DataFrame) -> tuple[Iterable[Sequence[int]], DataFrame, int]:
    """As `_many`, on the driver."""
    found = pa.Table.from_batches(_find_duplicates(_send(1)(facts.toArrow().to_batches())), _FOUND)
    counted = found.select(_COUNTS.names).filter(pc.is_valid(found[_CELL]))
    keys = [(key,) for key in pc.drop_null(found[KEY]).to_pylist()]
    duplicates = local_frame(facts.sparkSession, keys, f"{KEY} bigint")
    return zip(*(column.to_pylist() for column in counted.columns), strict=True), duplicates, len(keys)


def _many(facts: DataFrame, tasks: int, keep: Keep) -> tuple[Iterable[Sequence[int]], DataFrame, int]:
    """Cell, rows, first and last hour of the rows; the keys that occur more than once; and how many those are."""
    sent = facts.mapInArrow(_send(tasks), from_arrow_schema(_SENT))
    found = keep(sent.repartition(tasks, "range").mapInArrow(_find_duplicates, from_arrow_schema(_FOUND)))
    counted = found.where(F.col(_CELL).isNotNull()).groupBy(_CELL).agg(F.sum(_ROWS), F.min(_FIRST), F.max(_LAST))
    duplicates = found.where(F.col(KEY).isNotNull()).select(KEY)
    return counted.collect(), duplicates, duplicates.count()


def _cell(rules: Sequence[str]) -> Column:
    """The cell of a row: its day, failed rule (0: none) and label as one number."""
    day = F.coalesce(F.unix_date(FILED), F.lit(_NO_DAY)).cast("bigint")
    failed = F.array_position(F.array(*map(F.lit, rules)), F.col(RULE))
    rule = F.when(F.col(RULE).isNull(), F.lit(0)).otherwise(failed)
    return (day * _RULES + rule) * 2 + F.when(F.col("label") == 1, 1).otherwise(0)


def _send(ranges: int) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Count a task's rows by cell, with their first and last hour, and split its keys into ranges of 64-bit numbers."""
    edges = np.linspace(-(2.0**63), 2.0**63, ranges + 1)[1:-1].astype(np.int64)

    def send(batches: Batches) -> Iterator[pa.RecordBatch]:
        counts: dict[int, tuple[int, int, int]] = {}
        gathered: list[Keys] = []
        for batch in batches:
            for cell, rows, first, last in _by_cell(batch.column(_CELL).to_numpy()):
                before = counts.get(cell, (0, first, last))
                counts[cell] = before[0] + rows, min(first, before[1]), max(last, before[2])
            gathered.append(pc.drop_null(batch.column(KEY)).to_numpy())
            if sum(map(len, gathered)) >= PACKED_KEYS:
                yield _ranges(gathered, edges)
                gathered = []
        if gathered:
            yield _ranges(gathered, edges)
        facts = [(cell, *found) for cell, found in counts.items()]
        yield _record(_SENT, {name: [row[place] for row in facts] for place, name in enumerate(_COUNTS.names)})

    return send


def _by_cell(numbers: Keys) -> Iterator[tuple[int, int, int, int]]:
    """Decode the numbers of rows: cell, number of rows, first and last hour."""
    if not len(numbers):
        return iter(())
    found, rows = np.unique(numbers, return_counts=True)
    cells, hours = np.divmod(found, _HOURS)
    firsts = np.flatnonzero(np.diff(cells, prepend=cells[0] - 1))
    lasts = np.append(firsts[1:], len(cells)) - 1
    columns = (cells[firsts], np.add.reduceat(rows, firsts), hours[firsts], hours[lasts])
    return zip(*(column.tolist() for column in columns), strict=True)


def _ranges(gathered: list[Keys], edges: Keys) -> pa.RecordBatch:
    keys = np.sort(np.concatenate(gathered))
    parts = np.split(keys, np.searchsorted(keys, edges))
    sent = [(number, part.tobytes()) for number, part in enumerate(parts) if len(part)]
    return _record(_SENT, {"range": [number for number, _ in sent], "keys": [part for _, part in sent]})


def _find_duplicates(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Forward the counts, and find the keys that occur more than once in the received ranges."""
    gathered: list[Keys] = []
    for batch in batches:
        counts = batch.filter(pc.is_valid(batch.column(_CELL)))
        yield _record(_FOUND, {name: counts.column(name) for name in _COUNTS.names})
        gathered += [np.frombuffer(part.as_buffer(), np.int64) for part in batch.column("keys") if part.is_valid]
    if gathered:
        keys = np.sort(np.concatenate(gathered))
        yield _record(_FOUND, {KEY: np.unique(keys[1:][keys[1:] == keys[:-1]])})


def _record(schema: pa.Schema, columns: Mapping[str, Sized]) -> pa.RecordBatch:
    """A batch of some of the schema's columns; the others are null."""
    length = len(next(iter(columns.values())))
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(length, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _tasks(checked: DataFrame) -> int:
    return min(max(-(-bytes_of(checked) // TASK_BYTES), 1), 4096)
