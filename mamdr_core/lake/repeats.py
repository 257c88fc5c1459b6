"""Events that occur more than once: in a load, or in clicks from another load.

A load is surveyed in one scan: rows are counted by day and rule, and keys (64-bit hashes) of events that occur more
than once are found. Only rows with such a *contested* key, or one that another load's clicks have, are then compared by
their true columns and decided; all others are never shuffled nor kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mamdr_core.lake.caching import Keep
from mamdr_core.lake.clicks import EVENT, KEY, RULE, SOURCE_FILE, raw_json
from mamdr_core.lake.hashing import hash64
from mamdr_core.lake.tally import Tally
from schemas.clicks import NEW_EVENT, UNIQUE_EVENT

TASK_BYTES = 32 << 20
"""Bytes of the log whose events one task of the survey compares."""
SMALL = 4_000_000
"""So many contested keys are sent to every task; with more, rows are shuffled to them."""
_SPREAD = 64
_MANY_DAYS = 64

Span = tuple[int, int]
"""First and last event_time, in microseconds since 1970 (UTC)."""


@dataclass(frozen=True)
class Survey:
    """What one scan of a load found.

    Attributes:
        tally: rows by day and rule, before events are compared; those of repeated keys are left out.
        repeated: column `_key` of events that occur more than once.
        repeats: how many keys those are.
        spans: by day, the times of its valid rows; empty where the log has no times.
    """

    tally: Tally
    repeated: DataFrame
    repeats: int
    spans: Mapping[date, Span]


@dataclass(frozen=True)
class Judged:
    """All rows of a load, judged.

    Attributes:
        settled: rows whose rule is decided by themselves.
        contested: rows that were compared with others, few; None: there are none.
        tally: of all of them.
        faulty: whether some of the settled rows are rejected.
        shuffled: whether settled rows come out of a shuffle, and not straight from the log.
    """

    settled: DataFrame
    contested: DataFrame | None
    tally: Tally
    faulty: bool
    shuffled: bool

    @property
    def valid(self) -> DataFrame:
        """The valid rows, and others."""
        return self.settled if self.contested is None else self.settled.unionByName(self.contested)

    @property
    def rejected(self) -> DataFrame | None:
        """The rejected rows, and others; None: there are none."""
        parts = [self.settled] if self.faulty else []
        parts += [] if self.contested is None else [self.contested]
        return reduce(DataFrame.unionByName, parts) if parts else None


def survey_rows(judged: DataFrame, has_times: bool, keep: Keep) -> Survey:
    """Count a load's rows and find its repeated events.

    Args:
        judged: from `judge_rows`.
        has_times: whether the log has event times; without them no repetition can be seen.
        keep: for the small frame that is found.
    """
    found = keep(_count_events(judged) if has_times else _count_rows(judged))
    tally, spans, repeats = Tally(), dict[date, Span](), 0
    cells = found.groupBy("ds", RULE, F.col(KEY).isNotNull().alias("repeated")).agg(
        *(F.sum(name).alias(name) for name in ("rows", "clicks")),
        *(F.min("first").alias("first"), F.max("last").alias("last"), F.count(KEY).alias("keys")),
    )
    for row in cells.collect():
        repeats += row["keys"]
        if not row["repeated"]:
            tally.add((row["ds"], row[RULE]), row["rows"], row["clicks"] or 0)
        if row["ds"] and row[RULE] is None and row["first"] is not None:
            first, last = spans.get(row["ds"], (row["first"], row["last"]))
            spans[row["ds"]] = min(first, row["first"]), max(last, row["last"])
    return Survey(tally, found.where(F.col(KEY).isNotNull()).select(KEY), repeats, spans)


def settle_events(judged: DataFrame, survey: Survey, others: DataFrame | None, keep: Keep) -> Judged:
    """Decide the rules unique_event and new_event.

    Args:
        judged: from `judge_rows`.
        survey: of the same rows.
        others: clicks of other loads that may hold the same events, or None.
        keep: for the contested keys and rows.
    """
    faulty = survey.tally.rejected > 0
    keys, count = survey.repeated, survey.repeats
    if others is not None:
        others = _with_key(others)
        shared = judged.where(F.col(KEY).isNotNull()).select(KEY).join(others.select(KEY), KEY, "left_semi")
        keys = keep(keys.unionByName(shared).distinct())
        count = keys.count()
    if not count:
        return Judged(judged, None, survey.tally, faulty, shuffled=False)
    small = count <= SMALL
    keys = F.broadcast(keys) if small else keys
    rows = judged.where(F.col(KEY).isNotNull()).join(keys, KEY, "left_semi")
    decided = keep(_decide(rows, None if others is None else others.join(keys, KEY, "left_semi")))
    tally = _correct(survey.tally, decided)
    contested = decided.select(*judged.columns).coalesce(1)
    return Judged(judged.join(keys, KEY, "left_anti"), contested, tally, faulty, shuffled=not small)


def in_spans(spans: Mapping[date, Span]) -> Column:
    """Whether an event_time lies in one of the spans; of many, between the first and the last."""
    joined = list(spans.values())
    if len(joined) > _MANY_DAYS:
        joined = [(min(first for first, _ in joined), max(last for _, last in joined))]
    limits = ([F.timestamp_micros(F.lit(limit)) for limit in span] for span in joined)
    return reduce(or_, (F.col("event_time").between(first, last) for first, last in limits), F.lit(False))


def _count_rows(judged: DataFrame) -> DataFrame:
    counted = judged.groupBy("ds", RULE).agg(F.count("*").alias("rows"), F.sum("label").alias("clicks"))
    return counted.withColumns(
        {KEY: F.lit(None).cast("bigint"), "first": F.lit(None).cast("bigint"), "last": F.lit(None).cast("bigint")}
    )


def _count_events(judged: DataFrame) -> DataFrame:
    """Rows by day, rule and repeated key (null: all others)."""
    valid = F.col(RULE).isNull()
    # A rejected row has no key; those must not all meet in one task.
    spread = F.coalesce(F.col(KEY), F.pmod(hash64(*map(F.col, EVENT)), F.lit(_SPREAD)))
    events = (
        judged.select(spread.alias("spread"), RULE, "ds", "label", F.unix_micros("event_time").alias("time"))
        # Aggregated after the shuffle only: before it nearly every event is alone, and a map of all would not fit.
        .repartition(_tasks(judged), "spread")
        .groupBy("spread", RULE, F.when(~valid, F.col("ds")).alias("rejected_ds"))
        # Rows of one key have one day, unless an event repeats under a declared ds: then it is contested anyhow.
        .agg(
            *(F.count("*").alias("rows"), F.sum("label").alias("clicks")),
            *(F.min("ds").alias("ds"), F.min("time").alias("time")),
        )
    )
    repeated = F.when(valid & (F.col("rows") > 1), F.col("spread"))
    return events.groupBy("ds", RULE, repeated.alias(KEY)).agg(
        *(F.sum(name).alias(name) for name in ("rows", "clicks")),
        *(F.min("time").alias("first"), F.max("time").alias("last")),
    )


def _decide(rows: DataFrame, others: DataFrame | None) -> DataFrame:
    """Judge contested rows; adds `repeated`, whether several rows of the load have the key."""
    # Not the hash but the true columns, so that two events of one hash are both kept.
    content = hash64(raw_json(), F.col(SOURCE_FILE))
    place = F.row_number().over(Window.partitionBy(*EVENT).orderBy(F.col("label").desc(), content))
    rows = rows.withColumn("place", place).withColumn("repeated", F.count("*").over(Window.partitionBy(KEY)) > 1)
    known = F.lit(False)
    if others is not None:
        events = others.select(*EVENT).distinct().withColumn("known", F.lit(True))
        rows, known = rows.join(events, list(EVENT), "left"), F.coalesce(F.col("known"), F.lit(False))
    rule = F.when(F.col("place") > 1, UNIQUE_EVENT.name).when(known, NEW_EVENT.name)
    return rows.withColumn(RULE, rule)


def _correct(tally: Tally, decided: DataFrame) -> Tally:
    """The tally with contested rows counted as decided; those of keys that occur once were counted as valid."""
    corrected = Tally(tally.rows.copy(), tally.clicks)
    counted = decided.groupBy("ds", RULE, "repeated").agg(F.count("*").alias("rows"), F.sum("label").alias("clicks"))
    for row in counted.collect():
        if not row["repeated"]:
            corrected.add((row["ds"], None), -row["rows"], -row["clicks"])
        corrected.add((row["ds"], row[RULE]), row["rows"], row["clicks"])
    return corrected


def _with_key(clicks: DataFrame) -> DataFrame:
    return clicks.withColumn(KEY, hash64(*map(F.col, EVENT)))


def _tasks(judged: DataFrame) -> int:
    log = judged._jdf.queryExecution().optimizedPlan().collectLeaves().head()
    size = int(log.stats().sizeInBytes())
    return min(max(-(-size // TASK_BYTES), 1), 4096)
