"""domain_stats: statistics of each domain by day, compared with other domains, the day before and the week before."""

import logging
from datetime import date, timedelta
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window, WindowSpec
from pyspark.sql import functions as F

from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.increments import STATE, last_build
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)

WEEK = 7
Z_95 = 1.959964
"""Standard deviations around the mean that contain a normal variable with probability 95 %."""
_KEY = ["ds", "domain"]


def domain_stats(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Compute the days of `stats.ds`, or every day of clicks, and replace them in domain_stats.

    Returns:
        days, rows (of domain_stats), clicks_version, domain_stats_version.

    Raises:
        MamdrError: there are neither clicks (on `stats.ds`, if set) nor earlier statistics to remove.
    """
    lake = Lake(spark, config.lake)
    version = lake.version("clicks")
    day = config.stats.ds
    with kept_frames() as keep:
        stats = keep(summarize_domains(lake.read("clicks", version), day, known_first_days(lake, version, day)))
        counted = stats.agg(F.count("*"), F.count_distinct("ds")).first()
        rows, days = counted if counted else (0, 0)
        predicate = f"ds = DATE'{day.isoformat()}'" if day else "true"
        if not rows and not lake.has_rows("domain_stats", predicate):
            raise MamdrError(f"clicks of {lake.root} holds no row of {day} (stats.ds)" if day else "clicks is empty")
        note = {"job": "domain_stats", "clicks_version": version}
        lake.overwrite_where("domain_stats", stats.hint("rebalance", "ds"), predicate, note)
    logger.info("%d domains on %d days", rows, days)
    return {
        "days": days,
        "rows": rows,
        "clicks_version": version,
        "domain_stats_version": lake.version("domain_stats"),
    }


def known_first_days(lake: Lake, clicks_version: int, day: date | None) -> DataFrame | None:
    """The first day of every user according to the vocabulary; None: it may lack users of the day."""
    built = last_build(lake.log("examples"))
    if not day or built.reason or built.note["clicks_version"] != clicks_version:
        return None
    state = built.note[STATE]
    if not state["knows_users"] or (state["until"] or str(day)) < str(day):
        return None
    return lake.read("users").select(F.col("id").alias("user"), F.col("first_seen").alias("_first"))


def summarize_domains(clicks: DataFrame, day: date | None = None, first_days: DataFrame | None = None) -> DataFrame:
    """The columns of domain_stats of one day or all days, computed from clicks and never from earlier statistics.

    One day costs a pass over its rows, and over ds, domain and label of the week before.

    Args:
        clicks: clicks of all days.
        day: the day; None: all days.
        first_days: the first day (`_first`) of every user of the day; None: computed from all earlier clicks.
    """
    counted, wanted, history = clicks, clicks, clicks
    if day:
        counted = clicks.where(F.col("ds").between(day - timedelta(days=WEEK), day))
        wanted, history = clicks.where(F.col("ds") == day), clicks.where(F.col("ds") <= day)
    if first_days is None:
        first_days = history.groupBy("user").agg(F.min("ds").alias("_first"))
    users = _pairs(wanted, "user").join(first_days, "user", "inner")
    new_users = F.count_if(F.col("ds") == F.col("_first")).alias("new_users")
    # The inner joins keep only the wanted days.
    return (
        _compare(_count(counted))
        .join(_summarize(users, "user", new_users), _KEY, "inner")
        .join(_summarize(_pairs(wanted, "item"), "item"), _KEY, "inner")
    )


def _count(clicks: DataFrame) -> DataFrame:
    """Per day and domain: rows, clicks, ctr and its 95 % interval."""
    counted = clicks.groupBy(*_KEY).agg(F.count("*").alias("rows"), F.sum(F.col("label").cast("long")).alias("clicks"))
    low, high = _wilson_interval(F.col("ctr"), F.col("rows"))
    # A CTR of 0 or 1 is itself the end of the interval, which rounding must not move.
    return counted.withColumn("ctr", F.col("clicks") / F.col("rows")).withColumns(
        {
            "ctr_low": F.when(F.col("clicks") == 0, 0.0).otherwise(low),
            "ctr_high": F.when(F.col("clicks") == F.col("rows"), 1.0).otherwise(high),
        }
    )


def _wilson_interval(rate: Column, rows: Column) -> tuple[Column, Column]:
    """Wilson's score interval (1927), which stays in [0, 1] and is accurate for few rows and rare clicks."""
    center = rate + Z_95**2 / (2 * rows)
    half = Z_95 * F.sqrt((rate * (1 - rate) + Z_95**2 / (4 * rows)) / rows)
    scale = 1 + Z_95**2 / rows
    return (center - half) / scale, (center + half) / scale


def _compare(days: DataFrame) -> DataFrame:
    """Add the comparisons with the day before and with the week before."""
    number = F.unix_date("ds")
    by_domain = Window.partitionBy("domain").orderBy(number)
    days = _compare_with(days, by_domain.rangeBetween(-1, -1), "")
    return _compare_with(days, by_domain.rangeBetween(-WEEK, -1), "week_")


def _compare_with(days: DataFrame, before: WindowSpec, prefix: str) -> DataFrame:
    rows, clicks = F.sum("rows").over(before), F.sum("clicks").over(before)
    pooled = (F.col("clicks") + clicks) / (F.col("rows") + rows)
    error = F.sqrt(pooled * (1 - pooled) * (1 / F.col("rows") + 1 / rows))
    difference = F.col("ctr") - clicks / rows
    return days.withColumns(
        {
            f"{prefix}rows_ratio": F.col("rows") / F.avg("rows").over(before),
            f"{prefix}ctr_difference": difference,
            f"{prefix}ctr_z": F.when(error > 0, difference / error),
        }
    )


def _pairs(clicks: DataFrame, who: str) -> DataFrame:
    """Distinct ds, user (or item) and domain, all of a user's in one partition."""
    return clicks.select("ds", who, "domain").repartition(who).distinct()


def _summarize(pairs: DataFrame, who: str, *more: Column) -> DataFrame:
    """Per day and domain: distinct users (or items), the share of them seen in another domain that day, and `more`."""
    # Comparing the first with the last domain avoids collecting all domains of an id.
    domains_of_id = Window.partitionBy(who, "ds")
    is_shared = F.min("domain").over(domains_of_id) != F.max("domain").over(domains_of_id)
    return (
        pairs.withColumn("_shared", is_shared.cast("double"))
        .groupBy(*_KEY)
        .agg(F.count("*").alias(f"{who}s"), F.avg("_shared").alias(f"shared_{who}s"), *more)
    )
