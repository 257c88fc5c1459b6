"""Writing a judged load: replace what it replaces in clicks_rejected and clicks, or leave both as they were."""

import logging
from collections.abc import Collection, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.notes import load_note
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import overriding
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.clicks import select_clicks, select_rejected
from mamdr_core.lake.ingest.loads import Load, days_held
from mamdr_core.lake.ingest.repeats import Judged
from mamdr_core.runtime.errors import MamdrError
from schemas import Table

logger = logging.getLogger(__name__)

FILE_ROWS = 100_000
"""Rows of a file at least, on average, for which rows are written as they are read, and not brought together by day."""
_WRITING = {
    # A task keeps a file a day open, where Spark would sort its rows by day.
    "spark.sql.maxConcurrentOutputFileWriters": "32",
    # Spark's default, the old INT96, takes more bytes and time.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}


@dataclass(frozen=True)
class Publication:
    """Where and how a load is published.

    Attributes:
        clicks: the table clicks with the declared features.
        whole_days: whether whole days are replaced (input.replace), and not the load's own rows.
        held: rows by day that an earlier run of the load filed in clicks.
        tasks: in how many tasks Spark reads the log.
        started_at: names the attempt.
    """

    lake: Lake
    load: Load
    clicks: Table
    whole_days: bool
    held: Set[date | None]
    tasks: int
    started_at: datetime


def publish(spark: SparkSession, to: Publication, judged: Judged) -> int:
    """Write the rejected and the valid rows; returns the version of clicks.

    Raises:
        MamdrError: not as many rows were written as were counted: the log changed meanwhile. The tables are as before.
    """
    days: set[date | None] = set(judged.tally.valid_by_day)
    note = {"job": "ingest_clicks", "source": to.load.source, "started_at": to.started_at.isoformat()}
    note |= load_note(to.load.id, days if to.whole_days else ())
    held_rejected = days_held(to.lake, "clicks_rejected", to.load).keys()
    with _all_or_nothing(to, note) as check:
        rejected = judged.rejected
        where = _predicate(to, days, judged.tally.rejected_days | held_rejected)
        if rejected is not None or _has_rows(to.lake, "clicks_rejected", where):
            rows = select_rejected(
                judged.settled.limit(0) if rejected is None else rejected, to.load.id, to.load.source
            )
            with progress(spark, "clicks_rejected"):
                to.lake.overwrite_where("clicks_rejected", rows, where, note)
            check("clicks_rejected", judged.tally.rejected, note)
        to.lake.create("clicks_rejected")
        rows = _by_day(spark, select_clicks(judged.valid, to.load.id), to, judged)
        with progress(spark, "clicks"), overriding(spark, _WRITING):
            to.lake.overwrite_where(to.clicks, rows, _predicate(to, days, days | to.held), note)
        return check("clicks", judged.tally.valid, note)


class _Check:
    """Compares what a commit holds with what was counted."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def __call__(self, table: str, rows: int, note: dict[str, Any]) -> int:
        version, written = self._lake.written(table, note)
        if written != rows:
            raise MamdrError(
                f"input.path: the log changed while it was read: {rows} rows were counted for {table} and {written} "
                "written; nothing is published, run again when it is complete"
            )
        return version


@contextmanager
def _all_or_nothing(to: Publication, note: dict[str, Any]) -> Iterator[_Check]:
    """Undo the commits with the note, which are this job's, where anything goes wrong."""
    try:
        yield _Check(to.lake)
    except Exception:
        for name in ("clicks", "clicks_rejected"):
            if not to.lake.undo(name, note):
                logger.warning("%s: other jobs have written it since; load %s again", name, to.load.source)
        raise


def _by_day(spark: SparkSession, rows: DataFrame, to: Publication, judged: Judged) -> DataFrame:
    files = to.tasks * len(judged.tally.valid_by_day)
    is_direct = to.tasks == 1 or judged.tally.valid >= FILE_ROWS * files
    if is_direct and not judged.shuffled:
        return rows
    if str(spark.conf.get("spark.sql.adaptive.enabled")).lower() == "true":
        return rows.hint("rebalance", "ds")
    # Spark passes over the hint then. A large day is several tasks' here too.
    parts = -(-max(judged.tally.valid_by_day.values()) // FILE_ROWS)
    return rows.repartition("ds", F.pmod(hash64(F.col("user")), F.lit(parts)))


def _predicate(to: Publication, days: set[date | None], touched: set[date | None]) -> str:
    """What the load replaces: of touched days its own rows, and of whole days all rows.

    Days are always named, so that jobs on different days do not meet.
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


def _has_rows(lake: Lake, table: str, where: str) -> bool:
    return lake.exists(table) and not lake.read(table).where(where).isEmpty()
