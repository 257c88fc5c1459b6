"""What one scan of a load finds: rows by day and rule, and the keys (64-bit hashes) of events that occur repeatedly.

Every event is compared with every other, so this decides how long ingest takes. The keys travel as arrays: a task sorts
its own and sends each range of them as one row, and whoever gets a range sorts what came and looks for neighbours that
are equal. A shuffle and a hash table of single rows took 1.6 times as long (benchmarks/README.md).
"""

from collections import Counter
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

from mamdr_core.lake.caching import Keep
from mamdr_core.lake.clicks import FILED, KEY, RULE
from mamdr_core.lake.tally import Tally
from schemas import Rule

TASK_BYTES = 32 << 20
"""Bytes of the log whose events one task compares."""
PACKED_KEYS = 1 << 20
"""Keys that a task gathers, 8 MB, before it sends them in ranges."""
_CELL, _ROWS = "cell", "rows"
_COUNTS = pa.schema([(_CELL, pa.int64()), (_ROWS, pa.int64())])
_SENT = pa.schema([*_COUNTS, pa.field("range", pa.int32()), pa.field("keys", pa.binary())])
_FOUND = pa.schema([*_COUNTS, pa.field(KEY, pa.int64())])
_RULES = 1 << 10
_NO_DAY = -(1 << 30)
_EPOCH = date(1970, 1, 1)

Keys = NDArray[np.int64]
Batches = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class Survey:
    """What one scan of a load found.

    Attributes:
        tally: rows by day and rule, before events are compared: of repeated ones all count as valid.
        repeated: column `_key` of events that occur more than once.
        repeats: how many keys those are.
    """

    tally: Tally
    repeated: DataFrame
    repeats: int


def survey_rows(judged: DataFrame, rules: Sequence[Rule], has_times: bool, keep: Keep) -> Survey:
    """Count a load's rows and find its repeated events.

    Args:
        judged: from `judge_rows`.
        rules: that the rows were judged by.
        has_times: whether the log has event times; without them no repetition can be seen.
        keep: for the small frame that is found.
    """
    tasks = _tasks(judged)
    names = [rule.name for rule in rules]
    key = F.col(KEY) if has_times else F.lit(None).cast("bigint")
    # Two numbers a row: each further column would cost as much again on its way.
    facts = judged.select(key.alias(KEY), _cell(names).alias(_CELL))
    sent = facts.mapInArrow(_send(tasks), from_arrow_schema(_SENT))
    found = keep(sent.repartition(tasks, "range").mapInArrow(_find_repeats, from_arrow_schema(_FOUND)))
    tally = Tally()
    counted = found.where(F.col(_CELL).isNotNull()).groupBy(_CELL).agg(F.sum(_ROWS).alias(_ROWS))
    for cell, rows in counted.collect():
        place, label = divmod(cell, 2)
        day, rule = divmod(place, _RULES)
        when = None if day == _NO_DAY else _EPOCH + timedelta(days=day)
        tally.add((when, names[rule - 1] if rule else None), rows, rows * label)
    repeated = found.where(F.col(KEY).isNotNull()).select(KEY)
    return Survey(tally, repeated, repeated.count())


def _cell(rules: Sequence[str]) -> Column:
    """A row's day, failed rule (0: none) and label as one number."""
    day = F.coalesce(F.unix_date(FILED), F.lit(_NO_DAY)).cast("bigint")
    failed = F.array_position(F.array(*map(F.lit, rules)), F.col(RULE))
    rule = F.when(F.col(RULE).isNull(), F.lit(0)).otherwise(failed)
    return (day * _RULES + rule) * 2 + F.when(F.col("label") == 1, 1).otherwise(0)


def _send(ranges: int) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Counts of a task's rows by cell, and its keys in ranges of the 64-bit numbers."""
    edges = np.linspace(-(2.0**63), 2.0**63, ranges + 1)[1:-1].astype(np.int64)

    def send(batches: Batches) -> Iterator[pa.RecordBatch]:
        counts = Counter[int]()
        gathered: list[Keys] = []
        for batch in batches:
            cells, rows = np.unique(batch.column(_CELL).to_numpy(), return_counts=True)
            counts.update(dict(zip(cells.tolist(), rows.tolist(), strict=True)))
            gathered.append(pc.drop_null(batch.column(KEY)).to_numpy())
            if sum(map(len, gathered)) >= PACKED_KEYS:
                yield _ranges(gathered, edges)
                gathered = []
        if gathered:
            yield _ranges(gathered, edges)
        yield _record(_SENT, {_CELL: list(counts), _ROWS: list(counts.values())})

    return send


def _ranges(gathered: list[Keys], edges: Keys) -> pa.RecordBatch:
    keys = np.sort(np.concatenate(gathered))
    parts = np.split(keys, np.searchsorted(keys, edges))
    sent = [(number, part.tobytes()) for number, part in enumerate(parts) if len(part)]
    return _record(_SENT, {"range": [number for number, _ in sent], "keys": [part for _, part in sent]})


def _find_repeats(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Pass counts on, and find the keys that occur more than once in what came of some ranges."""
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


def _tasks(judged: DataFrame) -> int:
    return min(max(-(-bytes_of(judged) // TASK_BYTES), 1), 4096)


def bytes_of(rows: DataFrame) -> int:
    """Bytes of the files that rows come from."""
    log = rows._jdf.queryExecution().optimizedPlan().collectLeaves().head()
    return int(log.stats().sizeInBytes())
