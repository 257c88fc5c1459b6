"""Contents of the page of a lake: rows by day, new, lost and drifting domains, runs, and the champion."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.reports import ReportSettings
from mamdr_core.lake.core.tables import Lake
from mamdr_core.reports.facts import Figures, declared_rows, read_days, rows_of

DRIFT_Z = 4.0
"""A domain drifts on a day if its CTR differs by this number of standard errors from the day or the week before, as in
the view drifting_domains. Few of tens of thousands of domains then drift by chance."""
MOST_RUNS = 200
"""Maximum number of runs in the list."""


@dataclass(frozen=True)
class LakeFacts:
    """Contents of the page of a lake.

    Attributes:
        days: see `read_days`, with left_domains, those without rows on any later day (None on the last day).
        runs: the newest `MOST_RUNS` rows of training_runs that belong to no experiment, newest first, with passed (by
            the gate; None: not decided), promoted (whether it has served) and page (whether its report exists).
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
        pages: names of the files in the folder of reports.

    Missing and empty tables contribute nothing.
    """
    days, stats = read_days(lake, None, settings.days)
    promotions = rows_of(lake, "promotions", F.lit(True), F.asc("number"))
    promoted = {row["run_id"] for row in promotions}
    runs = _newest_runs(lake, days[0]["ds"] if days else None)
    of_runs = F.col("run_id").isin([row["run_id"] for row in runs])
    passed = {row["run_id"]: row["passed"] for row in rows_of(lake, "gate_decisions", of_runs)}
    return LakeFacts(
        days=[] if stats is None else _left_domains(stats, days),
        runs=[
            row
            | {"promoted": row["run_id"] in promoted}
            | {"passed": passed.get(row["run_id"]), "page": f"{row['run_id']}.html" in pages}
            for row in runs
        ],
        champion=promotions[-1] if promotions else None,
        drifting=[] if stats is None else _drifting(stats, settings.listed),
    )


def _left_domains(stats: DataFrame, days: Sequence[Figures]) -> list[Figures]:
    last = stats.groupBy("domain").agg(F.max("ds").alias("ds")).groupBy("ds").count()
    left = {row["ds"]: row["count"] for row in last.collect()}
    return [*({**day, "left_domains": left.get(day["ds"], 0)} for day in days[:-1]), {**days[-1], "left_domains": None}]


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
