"""Publishes a load: replaces rows of clicks_rejected and clicks, or leaves both tables unchanged."""

import contextlib
import logging
from collections.abc import Collection, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.yaml_values import one_line
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.notes import load_note
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import WRITING_BY_DAY, overriding
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.clicks import select_clicks, select_rejected
from mamdr_core.lake.ingest.deduplicate import CheckedRows
from mamdr_core.lake.ingest.load_counts import LoadCounts
from mamdr_core.lake.ingest.loads import Load, days_held, record_load
from mamdr_core.runtime.errors import MamdrError
from schemas import DeclaredTable

logger = logging.getLogger(__name__)

FILE_ROWS = 100_000
"""Minimum mean number of rows of a file for which rows are written without a shuffle by day."""


@dataclass(frozen=True)
class Publication:
    """Where and how a load is published.

    Attributes:
        clicks: declaration of the table clicks with the features.
        whole_days: whether whole days are replaced (input.replace) instead of only the load's own rows.
        held: days on which clicks has rows of the load.
        tasks: number of tasks in which Spark reads the log.
        started_at: identifies the attempt.
        is_recorded: whether `loads` has a row of this attempt already.
    """

    lake: Lake
    load: Load
    clicks: DeclaredTable
    whole_days: bool
    held: Set[date | None]
    tasks: int
    started_at: datetime
    is_recorded: bool


def publish(to: Publication, checked: CheckedRows) -> int:
    """Write the rejected and the valid rows; returns the version of clicks.

    Raises:
        MamdrError: the log changed, so the numbers of written and counted rows differ. The tables are unchanged.
    """
    days: set[date | None] = set(checked.counts.valid_by_day)
    note = {"job": "ingest_clicks", "source": to.load.source, "started_at": to.started_at.isoformat()}
    note |= load_note(to.load.id, days if to.whole_days else ())
    held_rejected = days_held(to.lake, "clicks_rejected", to.load).keys()
    with _all_or_nothing(to, checked.counts, note):
        rejected = checked.rejected
        where = _predicate(to, days, checked.counts.rejected_days | held_rejected)
        if rejected is not None or to.lake.has_rows("clicks_rejected", where):
            rows = select_rejected(
                checked.uncontested.limit(0) if rejected is None else rejected, to.load.id, to.load.source
            )
            with progress(to.lake.spark, "clicks_rejected"):
                to.lake.overwrite_where("clicks_rejected", rows, where, note)
            _check_rows(to.lake, "clicks_rejected", checked.counts.rejected, note)
        to.lake.create("clicks_rejected")
        rows = _by_day(select_clicks(checked.valid, to.load.id), to, checked)
        with progress(to.lake.spark, "clicks"), overriding(to.lake.spark, WRITING_BY_DAY):
            to.lake.overwrite_where(to.clicks, rows, _predicate(to, days, days | to.held), note)
        return _check_rows(to.lake, "clicks", checked.counts.valid, note)


def _check_rows(lake: Lake, table: str, rows: int, note: dict[str, Any]) -> int:
    """Check that a commit has as many rows as were counted; returns its version."""
    version, written = lake.written(table, note)
    if written != rows:
        raise MamdrError(
            f"input.path: the log changed while it was read: {rows} rows were counted for {table} and {written} "
            "written; nothing is published, run again when it is complete"
        )
    return version


@contextmanager
def _all_or_nothing(to: Publication, counts: LoadCounts, note: dict[str, Any]) -> Iterator[None]:
    """Undo this job's commits, those with the note, if anything goes wrong."""
    try:
        yield
    except Exception as error:
        kept = [name for name in ("clicks", "clicks_rejected") if not to.lake.undo(name, note)]
        if kept:
            logger.warning("%s not undone, as other jobs wrote; ingest %s again", " and ".join(kept), to.load.source)
        elif to.is_recorded:  # without this row the attempt would be taken for a killed job
            reason = f"failed, and was undone: {one_line(str(error))[:300]}"
            with contextlib.suppress(Exception):  # the cause of the failure matters more than its record
                record_load(to.lake, to.load, counts, to.started_at, reason=reason)
        raise


def _by_day(rows: DataFrame, to: Publication, checked: CheckedRows) -> DataFrame:
    files = to.tasks * len(checked.counts.valid_by_day)
    is_direct = to.tasks == 1 or checked.counts.valid >= FILE_ROWS * files
    if is_direct and not checked.shuffled:
        return rows
    if str(to.lake.spark.conf.get("spark.sql.adaptive.enabled")).lower() == "true":
        return rows.hint("rebalance", "ds")
    # Without adaptive execution Spark ignores the hint; a large day is distributed over several tasks here too.
    parts = -(-max(checked.counts.valid_by_day.values()) // FILE_ROWS)
    return rows.repartition("ds", F.pmod(hash64(F.col("user")), F.lit(parts)))


def _predicate(to: Publication, days: set[date | None], touched: set[date | None]) -> str:
    """Condition of the replaced rows: the load's own rows on touched days, and all rows on whole days.

    It always lists the days, so that jobs on different days do not conflict.
    """
    whole = days if to.whole_days else set[date | None]()
    parts = [_in_days(whole)] if whole else []
    if touched - whole:
        parts.append(f"(load = {to.load.id} AND {_in_days(touched - whole)})")
    return " OR ".join(parts) or "false"


def _in_days(days: Collection[date | None]) -> str:
    named = ", ".join(f"DATE'{day.isoformat()}'" for day in sorted(day for day in days if day))
    parts = [f"ds IN ({named})"] if named else []
    if None in days:
        parts.append("ds IS NULL")
    return f"({' OR '.join(parts)})"
