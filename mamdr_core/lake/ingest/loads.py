"""Loads: all rows of one source, identified by a hash of the source; and the table `loads`, which records attempts."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.few import declared_frame
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.load_counts import LoadCounts


@dataclass(frozen=True)
class Load:
    """A load: its source, and its id in the tables (an integer, because Delta truncates statistics of strings)."""

    id: int
    source: str


@dataclass(frozen=True)
class Attempts:
    """Earlier attempts that a correction has to consider.

    Attributes:
        days: the first and last day of every attempt that published the load, and of every attempt, also of other
            loads, that was about to remove days and did not end.
        killed: whether there is an attempt of the latter kind.
    """

    days: frozenset[date] = frozenset()
    killed: bool = False


def identify_load(spark: SparkSession, path: str) -> Load:
    """The load of `input.path`, however the path is written (relative, with a trailing slash, as a URI)."""
    source = Files(spark, path).root
    # Spark computes a query over constant values during planning, without a job.
    query = "SELECT xxhash64(source) AS id FROM VALUES (:source) AS one (source)"
    found = spark.sql(query, args={"source": source}).collect()
    return Load(found[0]["id"], source)


def days_held(lake: Lake, table: str, load: Load) -> dict[date | None, int]:
    """Number of rows of the load in a table by day; None: rows without a day."""
    if not lake.exists(table):
        return {}
    counted = lake.read(table).where(F.col("load") == load.id).groupBy("ds").count().collect()
    return {row["ds"]: row["count"] for row in counted}


def read_attempts(lake: Lake, load: Load, replaced: Collection[date] = ()) -> Attempts:
    """Read the earlier attempts of a load.

    Args:
        replaced: days whose rows it replaces, those of all loads. Killed attempts of other loads on these days are
            included: once their last clicks are replaced, their own next attempt no longer is a correction. Their rows
            in `loads` stay: the jobs may still run, and restoring an event twice changes nothing.
    """
    if not lake.exists("loads"):
        return Attempts()
    is_own, status, start = F.col("load") == load.id, F.col("status"), F.unix_micros("started_at")
    lines = lake.read("loads") if replaced else lake.read("loads").where(is_own)
    by_load = lines.groupBy("load").agg(
        F.collect_set(F.when(status == "replacing", F.struct(start, "first_ds", "last_ds"))).alias("replacing"),
        F.collect_set(F.when(status == "stopped", start)).alias("stopped"),
        F.coalesce(F.max(F.when(status == "published", start)), F.lit(0)).alias("published"),
        F.min(F.when(status == "published", F.col("first_ds"))).alias("first"),
        F.max(F.when(status == "published", F.col("last_ds"))).alias("last"),
    )
    days, killed = set[date | None](), False
    for row in by_load.where(is_own | (F.size("replacing") > 0)).collect():
        own = row["load"] == load.id
        days |= {row["first"], row["last"]} if own else set()
        for started, first, last in row["replacing"]:
            concerns = own or (min(replaced) <= last and first <= max(replaced))
            if concerns and started > row["published"] and started not in row["stopped"]:
                days |= {first, last}
                killed = True
    return Attempts(frozenset(day for day in days if day), killed)


def clicks_of_others(
    lake: Lake, load: Load, replaced: Collection[date] = (), version: int | None = None
) -> DataFrame | None:
    """The clicks of other loads, without days that this load replaces; None: the table does not exist.

    Args:
        replaced: days that the load replaces.
        version: version of clicks; None: the newest one when the frame is computed.
    """
    if not lake.exists("clicks"):
        return None
    others = lake.read("clicks", version).where(F.col("load") != load.id)
    return others.where(~F.col("ds").isin(list(replaced))) if replaced else others


def rows_by_day(clicks: DataFrame | None, first: date, last: date) -> dict[date, int]:
    """Number of rows by day from `first` to `last`."""
    if clicks is None:
        return {}
    counted = clicks.where(F.col("ds").between(first, last)).groupBy("ds").count().collect()
    return {row["ds"]: row["count"] for row in counted}


def record_load(
    lake: Lake,
    load: Load,
    counts: LoadCounts,
    started_at: datetime,
    clicks_version: int | None = None,
    reason: str | None = None,
    replacing: Collection[date] = (),
) -> None:
    """Add a row to loads: published with `clicks_version`, stopped for `reason`, or about to replace days."""
    days = list(counts.valid_by_day)
    touched = sorted({*days, *replacing})
    line = {
        "load": load.id,
        "source": load.source,
        "status": "replacing" if replacing else "stopped" if reason else "published",
        "rows_in": counts.rows_in,
        "clicks": counts.valid,
        "rejected": counts.rejected,
        "rejected_by_rule": counts.by_rule,
        "days": len(days),
        "first_ds": touched[0] if touched else None,
        "last_ds": touched[-1] if touched else None,
        "ctr": counts.ctr,
        "reason": reason,
        "clicks_version": clicks_version,
        "started_at": started_at,
        "finished_at": max(datetime.now(UTC), started_at + timedelta(microseconds=1)),
    }
    lake.append("loads", declared_frame(lake.spark, "loads", [line]))
