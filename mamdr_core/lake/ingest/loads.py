"""Loads: all that one source brought, told apart in clicks and clicks_rejected by a hash of the source."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.tally import Tally
from schemas import TABLES
from schemas.spark import spark_schema


@dataclass(frozen=True)
class Load:
    """A load: its source and the number that its rows carry (a number, since Delta cuts the statistics of strings)."""

    id: int
    source: str


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


def days_recorded(lake: Lake, load: Load) -> set[date]:
    """First and last day of clicks of every time that the load was published."""
    if not lake.exists("loads"):
        return set()
    own = lake.read("loads").where((F.col("load") == load.id) & (F.col("status") == "published"))
    return {day for row in own.select("first_ds", "last_ds").distinct().collect() for day in row}


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
) -> None:
    """Add a line to loads: published with `clicks_version`, or stopped for `reason`."""
    days = list(tally.valid_by_day)
    line = {
        "load": load.id,
        "source": load.source,
        "status": "stopped" if reason else "published",
        "rows_in": tally.rows_in,
        "clicks": tally.valid,
        "rejected": tally.rejected,
        "rejected_by_rule": tally.by_rule,
        "days": len(days),
        "first_ds": days[0] if days else None,
        "last_ds": days[-1] if days else None,
        "ctr": tally.ctr,
        "reason": reason,
        "clicks_version": clicks_version,
        "started_at": started_at,
        "finished_at": max(datetime.now(UTC), started_at + timedelta(microseconds=1)),
    }
    table = TABLES["loads"]
    row = tuple(line[name] for name in table.column_names)
    lake.append(table, spark.createDataFrame([row], spark_schema(table)).coalesce(1))
