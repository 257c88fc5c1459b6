"""Deduplicates events within a load, and between a load and the clicks of other loads.

A key is *contested* if the load contains it more than once, or if clicks of another load have it. Only rows with a
contested key are compared by their columns; all other rows are neither shuffled nor persisted.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F

from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.session import ROWS_A_TASK, overriding, settings_for_many
from mamdr_core.lake.ingest.clicks import EVENT, KEY, KNOWN, RULE, SOURCE_FILE, raw_json
from mamdr_core.lake.ingest.load_counts import LoadCounts
from mamdr_core.lake.ingest.scan import Scan, Span
from schemas.clicks import NEW_EVENT, UNIQUE_EVENT

SMALL = 4_000_000
"""Maximum number of keys that are broadcast; with more, rows are shuffled."""
_MANY_DAYS = 64


@dataclass(frozen=True)
class CheckedRows:
    """All rows of a load with the rules that they fail.

    Attributes:
        uncontested: rows that need no comparison with others.
        contested: rows that were compared with others, in tasks of ROWS_A_TASK on average; None: there are none.
        counts: numbers of all rows by day and rule.
        has_rejected: whether some of the uncontested rows are rejected.
        shuffled: whether uncontested rows are the result of a shuffle instead of being read directly from the log.
    """

    uncontested: DataFrame
    contested: DataFrame | None
    counts: LoadCounts
    has_rejected: bool
    shuffled: bool

    @property
    def valid(self) -> DataFrame:
        """Rows that include all valid ones."""
        return self.uncontested if self.contested is None else self.uncontested.unionByName(self.contested)

    @property
    def rejected(self) -> DataFrame | None:
        """Rows that include all rejected ones; None: no row is rejected."""
        parts = [self.uncontested] if self.has_rejected else []
        parts += [] if self.contested is None else [self.contested]
        return reduce(DataFrame.unionByName, parts) if parts else None


def deduplicate(checked: DataFrame, scan: Scan, others: DataFrame | None, keep: Keep) -> CheckedRows:
    """Apply the rules unique_event and new_event.

    Args:
        checked: result of `apply_rules`.
        scan: scan of the same rows.
        others: clicks of other loads that may contain the same events, or None.
        keep: persists the contested keys and rows.
    """
    has_rejected = scan.counts.rejected > 0
    keys, count = scan.duplicate_keys, scan.duplicates
    if others is not None:
        others = others.withColumn(KEY, hash64(*map(F.col, EVENT)))
        shared = checked.where(F.col(KEY).isNotNull()).select(KEY).join(others.select(KEY), KEY, "left_semi")
        keys = keep(keys.unionByName(shared).distinct())
        count = keys.count()
    if not count:
        return CheckedRows(checked, None, scan.counts, has_rejected, shuffled=False)
    small = count <= SMALL
    keys = F.broadcast(keys) if small else keys
    rows = checked.where(F.col(KEY).isNotNull()).join(keys, KEY, "left_semi")
    # A key has two rows or more, one of which may be of another load. Spark plans a frame when it is marked as
    # persisted.
    with overriding(checked.sparkSession, settings_for_many(checked.sparkSession, 2 * count, ROWS_A_TASK)):
        decided = keep(_decide(rows, None if others is None else others.join(keys, KEY, "left_semi")))
    counted = decided.groupBy("ds", RULE).agg(F.count("*").alias("rows"), F.sum("label").alias("clicks")).collect()
    tasks = -(-sum(row["rows"] for row in counted) // ROWS_A_TASK)
    contested = decided.select(*checked.columns).coalesce(max(tasks, 1))
    counts = _correct(scan.counts, counted)
    return CheckedRows(checked.join(keys, KEY, "left_anti"), contested, counts, has_rejected, shuffled=not small)


def in_spans(spans: Collection[Span]) -> Column:
    """Whether event_time is in one of the spans or, with many spans, between the first and the last time."""
    if len(spans) > _MANY_DAYS:
        spans = [(min(first for first, _ in spans), max(last for _, last in spans))]
    limits = ([F.timestamp_micros(F.lit(limit)) for limit in span] for span in spans)
    return reduce(or_, (F.col("event_time").between(first, last) for first, last in limits), F.lit(False))


def _decide(rows: DataFrame, others: DataFrame | None) -> DataFrame:
    """Apply the rules to contested rows."""
    # Events are compared by their columns instead of the hash, so that two events with equal hashes are both kept.
    # Content decides before the file, whose name changes when a log is rewritten.
    order = (F.col("label").desc(), hash64(raw_json()), F.col(SOURCE_FILE))
    place = F.row_number().over(Window.partitionBy(*EVENT).orderBy(*order))
    rows = rows.withColumn("place", place)
    if others is not None:
        events = others.groupBy(*EVENT).agg(F.min(F.struct("load", "ds")).alias(KNOWN))
        rows = rows.drop(KNOWN).join(events, list(EVENT), "left")
    is_first, is_known = F.col("place") == 1, F.col(KNOWN).isNotNull()
    rule = F.when(~is_first, UNIQUE_EVENT.name).when(is_known, NEW_EVENT.name)
    return rows.withColumns({RULE: rule, KNOWN: F.when(is_first, F.col(KNOWN))})


def _correct(counts: LoadCounts, counted: Collection[Row]) -> LoadCounts:
    """Correct the counts of contested rows, all of which were counted as valid."""
    corrected = LoadCounts(counts.rows.copy(), counts.clicks)
    for row in counted:
        corrected.add((row["ds"], None), -row["rows"], -row["clicks"])
        corrected.add((row["ds"], row[RULE]), row["rows"], row["clicks"])
    return corrected
