"""What the tables record of a lake's last days: rows, domains that came, left or drift, runs, and the champion."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.reports import ReportSettings
from mamdr_core.lake.core.tables import Lake
from mamdr_core.reports.facts import Figures, declared_rows, rows_of

DRIFT_Z = 4.0
"""Standard errors by which a domain's CTR differs from the day or the week before on a day that counts as drift: as in
the view drifting_domains, so that few of tens of thousands of domains drift by chance."""
MOST_RUNS = 200
"""Runs that are listed at most."""


@dataclass(frozen=True)
class LakeFacts:
    """Contents of the page of a lake.

    Attributes:
        days: one row per day of the log, oldest first: ds, rows, clicks, domains, new_users, new_domains (None without
            the table domains), and left_domains, those without rows on any later day (None on the last day).
        runs: the newest `MOST_RUNS` rows of training_runs that belong to no experiment, newest first, with passed (by
            the gate; None: not judged), promoted (whether it has served) and page (whether its report is there).
        champion: the newest row of promotions.
        drifting: domains with at least one day of drift, most days first: domain, days, z (the largest), ds (its day).
    """

    days: Sequence[Figures]
    runs: Sequence[Figures]
    champion: Figures | None
    drifting: Sequence[Figures]


def read_lake_facts(lake: Lake, settings: ReportSettings, pages: Collection[str]) -> LakeFacts:
    """Read the contents of the page: the newest `report.days` days of the log, and runs of these days.

    Args:
        lake: its tables.
        settings: numbers of days and of listed domains.
        pages: names of the files in the folder of reports.

    A table that is not there, or has no rows, contributes nothing.
    """
    stats = _newest_days(lake, settings.days)
    days = [] if stats is None else _days(lake, stats)
    promotions = rows_of(lake, "promotions", F.lit(True), F.asc("number"))
    promoted = {row["run_id"] for row in promotions}
    runs = _newest_runs(lake, days[0]["ds"] if days else None)
    of_runs = F.col("run_id").isin([row["run_id"] for row in runs])
    passed = {row["run_id"]: row["passed"] for row in rows_of(lake, "gate_decisions", of_runs)}
    return LakeFacts(
        days=days,
        runs=[
            row
            | {"promoted": row["run_id"] in promoted}
            | {"passed": passed.get(row["run_id"]), "page": f"{row['run_id']}.html" in pages}
            for row in runs
        ],
        champion=promotions[-1] if promotions else None,
        drifting=[] if stats is None else _drifting(stats, settings.listed),
    )


def _newest_days(lake: Lake, days: int) -> DataFrame | None:
    if not lake.exists("domain_stats"):
        return None
    stats = lake.read("domain_stats")
    newest = stats.agg(F.max("ds")).first()
    if newest is None or newest[0] is None:
        return None
    return stats.where(F.col("ds") > F.lit(newest[0] - timedelta(days=days)))


def _days(lake: Lake, stats: DataFrame) -> list[Figures]:
    sums = [F.sum(name).alias(name) for name in ("rows", "clicks", "new_users")]
    by_day = stats.groupBy("ds").agg(*sums, F.count("*").alias("domains")).orderBy("ds").collect()
    last = stats.groupBy("domain").agg(F.max("ds").alias("ds")).groupBy("ds").count()
    left = {row["ds"]: row["count"] for row in last.collect()}
    came = _first_days(lake)
    newest = by_day[-1]["ds"]
    return [
        row.asDict()
        | {"new_domains": None if came is None else came.get(row["ds"], 0)}
        | {"left_domains": left.get(row["ds"], 0) if row["ds"] < newest else None}
        for row in by_day
    ]


def _first_days(lake: Lake) -> Mapping[date, int] | None:
    """Number of domains by the day on which they were first seen; None before a build has numbered domains."""
    if not lake.exists("domains"):
        return None
    return {row["first_seen"]: row["count"] for row in lake.read("domains").groupBy("first_seen").count().collect()}


def _drifting(stats: DataFrame, listed: int) -> list[Figures]:
    z = F.greatest(F.abs("ctr_z"), F.abs("week_ctr_z"))
    moved = stats.withColumn("z", z).where(F.col("z") >= DRIFT_Z).groupBy("domain")
    found = moved.agg(F.count("*").alias("days"), F.max("z").alias("z"), F.max_by("ds", "z").alias("ds"))
    order = [F.desc("days"), F.desc("z"), F.asc("domain")]
    return [row.asDict() for row in found.orderBy(*order).limit(listed).collect()]


def _newest_runs(lake: Lake, since: date | None) -> list[dict[str, Any]]:
    if not lake.exists("training_runs"):
        return []
    runs = lake.read("training_runs").where(F.col("experiment").isNull())
    if since is not None:
        runs = runs.where(F.col("ds").isNull() | (F.col("ds") >= F.lit(since)))
    return declared_rows("training_runs", runs.orderBy(F.desc("started_at")).limit(MOST_RUNS))
