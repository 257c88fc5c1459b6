"""Loads: the rows of one source, identified in clicks and clicks_rejected by a hash of the source."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.tally import Tally
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES
from schemas.loads import STATUS_KNOWN
from schemas.spark import spark_schema


@dataclass(frozen=True)
class Load:
    """A load: its source and the number that its rows carry (a number, since Delta cuts the statistics of strings)."""

    id: int
    source: str


@dataclass(frozen=True)
class Attempts:
    """What is recorded of earlier runs of a load.

    Attributes:
        days: the first and last day of every run that published the load or was about to take days away from it.
        killed: whether one that was about to take days away did not end, and none has ended since.
    """

    days: set[date]
    killed: bool


def identify_load(spark: SparkSession, path: str) -> Load:
    """The load of `input.path`, however the path is written (relative, with a trailing slash, as a URI)."""
    source = Files(spark, path).root
    # Of a table of values, which Spark computes as it plans, without a job.
    query = "SELECT xxhash64(source) AS id FROM VALUES (:source) AS one (source)"
    found = spark.sql(query, args={"source": source}).collect()
    return Load(found[0]["id"], source)


def check_loads(lake: Lake) -> None:
    """Refuse a lake whose clicks do not tell loads apart.

    Raises:
        MamdrError: clicks was made by an earlier version of this project.
    """
    if lake.exists("clicks") and "load" not in lake.read("clicks").columns:
        raise MamdrError(f"clicks of {lake.root} has no column load: name a new lake.root and ingest again")


def days_held(lake: Lake, table: str, load: Load) -> dict[date | None, int]:
    """Rows by day that an earlier run of the load filed in a table; None: rows without a day."""
    if not lake.exists(table):
        return {}
    counted = lake.read(table).where(F.col("load") == load.id).groupBy("ds").count().collect()
    return {row["ds"]: row["count"] for row in counted}


def read_attempts(lake: Lake, load: Load) -> Attempts:
    """What `loads` has of earlier runs of the load, stopped ones aside."""
    if not lake.exists("loads"):
        return Attempts(set(), False)
    own = lake.read("loads").where((F.col("load") == load.id) & (F.col("status") != "stopped"))
    lines = own.select("status", "first_ds", "last_ds", F.unix_micros("started_at").alias("started_at")).collect()
    finished = max((line["started_at"] for line in lines if line["status"] == "published"), default=None)
    killed = [
        line for line in lines if line["status"] == "replacing" and (finished is None or line["started_at"] > finished)
    ]
    days = {day for line in lines for day in (line["first_ds"], line["last_ds"]) if day}
    return Attempts(days, bool(killed))


def clicks_of_others(
    lake: Lake, load: Load, replaced: Collection[date] = (), version: int | None = None
) -> DataFrame | None:
    """The clicks of other loads, without those on days that this one replaces; None before any were filed.

    Args:
        lake: the lake.
        load: this one.
        replaced: the days.
        version: of clicks; None: the newest whenever the frame is computed.
    """
    if not lake.exists("clicks"):
        return None
    others = lake.read("clicks", version).where(F.col("load") != load.id)
    return others.where(~F.col("ds").isin(list(replaced))) if replaced else others


def rows_by_day(clicks: DataFrame | None, first: date, last: date) -> dict[date, int]:
    """Rows of each day from `first` to `last`."""
    if clicks is None:
        return {}
    counted = clicks.where(F.col("ds").between(first, last)).groupBy("ds").count().collect()
    return {row["ds"]: row["count"] for row in counted}


def record_load(
    spark: SparkSession,
    lake: Lake,
    load: Load,
    tally: Tally,
    started_at: datetime,
    clicks_version: int | None = None,
    reason: str | None = None,
    replacing: Collection[date] = (),
) -> None:
    """Add a line to loads: published with `clicks_version`, stopped for `reason`, or about to replace days."""
    days = list(tally.valid_by_day)
    touched = sorted({*days, *replacing})
    if replacing:
        lake.renew_rule("loads", STATUS_KNOWN)  # which older tables have without that status
    line = {
        "load": load.id,
        "source": load.source,
        "status": "replacing" if replacing else "stopped" if reason else "published",
        "rows_in": tally.rows_in,
        "clicks": tally.valid,
        "rejected": tally.rejected,
        "rejected_by_rule": tally.by_rule,
        "days": len(days),
        "first_ds": touched[0] if touched else None,
        "last_ds": touched[-1] if touched else None,
        "ctr": tally.ctr,
        "reason": reason,
        "clicks_version": clicks_version,
        "started_at": started_at,
        "finished_at": max(datetime.now(UTC), started_at + timedelta(microseconds=1)),
    }
    table = TABLES["loads"]
    row = tuple(line[name] for name in table.column_names)
    lake.append(table, local_frame(spark, [row], spark_schema(table)))
