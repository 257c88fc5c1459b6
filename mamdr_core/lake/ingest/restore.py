"""Restores events that a correction removed from clicks, from rejected rows of other loads with the same events.

A row that fails new_event refers to the click that it repeats (known_load, known_ds) and contains its own values as a
click (click). So the rejected rows that a correction affects are found by the days of the corrected load, and the
result depends only on clicks: if a job is killed, the next run of the load completes it.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from operator import and_

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.notes import RESTORED
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.clicks import EVENT, read_copies
from mamdr_core.lake.ingest.deduplicate import SMALL, in_spans
from mamdr_core.lake.ingest.loads import Load
from mamdr_core.lake.ingest.scan import Span

logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Replaced:
    """Rows of clicks that a load has replaced.

    Attributes:
        days: days on which clicks had or has rows of the load.
        whole_days: days on which the rows of all loads were replaced.
        is_uncertain: whether rows of other loads may have been replaced on any day between the first and the last.
    """

    load: Load
    days: frozenset[date]
    whole_days: frozenset[date]
    is_uncertain: bool = False


def restore_events(lake: Lake, replaced: Replaced, keep: Keep) -> int:
    """Restore events that only rejected rows have after a load or whole days were replaced; returns their number.

    An event is restored for the load that was published first among those with the event, as if the replaced click had
    never existed. Rejected rows of events that are still in clicks refer to the load that has them now.

    Args:
        replaced: the replaced rows; a superset gives the same result.
        keep: persists the affected rejected rows.

    Raises:
        MamdrError: other jobs kept publishing events of the same time.
    """
    rejected, load = lake.read("clicks_rejected", lake.version("clicks_rejected")), replaced.load
    concerned = replaced.days | replaced.whole_days
    if not concerned:
        return 0
    limits = min(concerned), max(concerned)
    named = F.col("known_ds").between(*limits)  # whose statistics let files be skipped
    if not replaced.is_uncertain:
        named &= (F.col("known_load") == load.id) | F.col("known_ds").isin(list(replaced.whole_days))
    version = lake.version("clicks")
    copies = keep(read_copies(rejected.where(named), lake.read("clicks", version).schema))
    micros = F.unix_micros("event_time")
    by_day = copies.groupBy("_known_ds").agg(F.min(micros), F.max(micros), F.count("*").alias("rows")).collect()
    if not by_day:
        return 0
    spans, is_small = [(row[1], row[2]) for row in by_day], sum(row["rows"] for row in by_day) <= SMALL
    held = _holders(lake, version, copies, spans, is_small)
    lost = keep(_first_of_each(lake, copies.join(held, list(EVENT), "left_anti")))
    counts = {row["load"]: row["count"] for row in lost.groupBy("load").count().collect()}
    if counts:
        _add_clicks(lake, lost, spans, sorted(counts))
        held = _holders(lake, lake.version("clicks"), copies, spans, is_small)
    _update_rejected(lake, copies, held, load, limits)
    if counts:
        logger.info(
            "%d events that %s no longer contains were restored from rejected rows of %d other loads",
            *(sum(counts.values()), load.source, len(counts)),
        )
    return sum(counts.values())


def _holders(lake: Lake, version: int, copies: DataFrame, spans: list[Span], is_small: bool) -> DataFrame:
    """The clicks with the events of the copies: the event, `_holder` (load of the click) and `_holder_ds`."""
    events = copies.select(*EVENT)
    clicks = lake.read("clicks", version).where(in_spans(spans))
    clicks = clicks.select(*EVENT, F.col("load").alias("_holder"), F.col("ds").alias("_holder_ds"))
    return clicks.join(F.broadcast(events) if is_small else events, list(EVENT), "left_semi")


def _first_of_each(lake: Lake, copies: DataFrame) -> DataFrame:
    """For each event, the copy of the load that was published first."""
    first = F.lit(None).cast("timestamp")
    if lake.exists("loads"):
        published = lake.read("loads").where("status = 'published'").groupBy("load")
        copies = copies.join(F.broadcast(published.agg(F.min("finished_at").alias("_first"))), "load", "left")
        first = F.col("_first")
    place = F.row_number().over(Window.partitionBy(*EVENT).orderBy(first.asc_nulls_last(), F.col("load")))
    return copies.withColumn("_place", place).where("_place = 1")


def _add_clicks(lake: Lake, lost: DataFrame, spans: list[Span], loads: list[int]) -> None:
    """Add rows to clicks, except for events that another job has published in the meantime."""
    first, last = min(first for first, _ in spans), max(last for _, last in spans)
    # Literals let Delta skip files.
    in_time = F.col("old.event_time").between(*(F.lit(_EPOCH + timedelta(microseconds=at)) for at in (first, last)))
    values: dict[str, str | Column] = {name: F.col(f"new.`{name}`") for name in lake.log("clicks").columns()}

    def insert(table: DeltaTable) -> None:
        merge = table.alias("old").merge(lost.alias("new"), in_time & _same(EVENT))
        merge.whenNotMatchedInsert(values=values).execute()

    lake.change("clicks", insert, {"job": "ingest_clicks", RESTORED: loads})


def _update_rejected(lake: Lake, copies: DataFrame, held: DataFrame, load: Load, days: tuple[date, date]) -> None:
    """Remove copies that are now in clicks for their own load; let the others refer to the click with their event."""
    now = F.min(F.struct(F.col("_holder") != F.col("load"), "_holder", "_holder_ds"))
    holders = copies.join(held, list(EVENT), "inner").groupBy("load", "ds", "_click", "_known_load", "_known_ds")
    found = holders.agg(now.alias("_now")).select("*", "_now._holder", "_now._holder_ds")
    changed = found.where("_holder <> _known_load OR _holder_ds <> _known_ds").drop("_now")
    if changed.isEmpty():
        return
    same = F.col("old.known_ds").between(*days) & _same(("load", "ds")) & (F.col("old.click") == F.col("new._click"))
    moved: dict[str, str | Column] = {"known_load": F.col("new._holder"), "known_ds": F.col("new._holder_ds")}

    def update(table: DeltaTable) -> None:
        merge = table.alias("old").merge(changed.alias("new"), same)
        merge.whenMatchedDelete("new._holder = new.load").whenMatchedUpdate(set=moved).execute()

    lake.change("clicks_rejected", update, {"job": "ingest_clicks", "restored_from": load.id})


def _same(columns: Collection[str]) -> Column:
    """Whether rows of `old` and `new` agree."""
    return reduce(and_, (F.col(f"old.{name}") == F.col(f"new.{name}") for name in columns))
