"""domain_stats: what each domain looked like on each day, beside the other domains and the day before."""

import logging
from datetime import timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from mamdr_core.config import Config
from mamdr_core.errors import MamdrError
from mamdr_core.lake.caching import kept_frames
from mamdr_core.lake.tables import Lake

logger = logging.getLogger(__name__)

_KEY = ["ds", "domain"]


def domain_stats(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Compute the days of `stats.ds`, or every day of clicks, and replace them in domain_stats.

    Returns:
        days, rows (of domain_stats), clicks_version, domain_stats_version.

    Raises:
        MamdrError: no clicks at all, or none on `stats.ds`.
    """
    lake = Lake(spark, config.lake.root)
    version = lake.version("clicks")
    clicks = lake.read("clicks", version)
    day = config.stats.ds
    if day:
        clicks = clicks.where(F.col("ds").between(day - timedelta(days=1), day))
    stats = summarize_domains(clicks)
    if day:
        stats = stats.where(F.col("ds") == day)
    with kept_frames() as keep:
        stats = keep(stats)
        counted = stats.agg(F.count("*"), F.count_distinct("ds")).first()
        rows, days = counted if counted else (0, 0)
        if not rows:
            raise MamdrError(f"clicks of {lake.root} holds no row of {day} (stats.ds)" if day else "clicks is empty")
        predicate = f"ds = DATE'{day.isoformat()}'" if day else "true"
        note = {"job": "domain_stats", "clicks_version": version}
        lake.overwrite_where("domain_stats", stats.hint("rebalance", "ds"), predicate, note)
    logger.info("%d domains on %d days", rows, days)
    return {
        "days": days,
        "rows": rows,
        "clicks_version": version,
        "domain_stats_version": lake.version("domain_stats"),
    }


def summarize_domains(clicks: DataFrame) -> DataFrame:
    """The columns of domain_stats from those of clicks; the day before is looked up in `clicks` itself."""
    by_item = _summarize(clicks, "item").drop("rows", "clicks")
    days = _summarize(clicks, "user").join(by_item, _KEY, "inner").withColumn("ctr", F.col("clicks") / F.col("rows"))
    window = Window.partitionBy("domain").orderBy("ds")
    is_next = F.lag("ds").over(window) == F.date_sub("ds", 1)
    return days.select(
        *_KEY,
        *("rows", "clicks", "ctr", "users", "items", "shared_users", "shared_items"),
        F.when(is_next, F.col("rows") / F.lag("rows").over(window)).alias("rows_ratio"),
        F.when(is_next, F.col("ctr") - F.lag("ctr").over(window)).alias("ctr_difference"),
    )


def _summarize(clicks: DataFrame, who: str) -> DataFrame:
    """Per day and domain: rows, clicks, distinct users (or items), and the share of them seen elsewhere that day."""
    # Partitioned once for both steps; an id's domains are compared, never gathered.
    pairs = (
        clicks.repartition("ds", who)
        .groupBy("ds", who, "domain")
        .agg(F.count("*").alias("rows"), F.sum(F.col("label").cast("bigint")).alias("clicks"))
    )
    domains_of_id = Window.partitionBy("ds", who)
    is_shared = F.min("domain").over(domains_of_id) != F.max("domain").over(domains_of_id)
    return (
        pairs.withColumn("_shared", is_shared.cast("double"))
        .groupBy(*_KEY)
        .agg(
            F.sum("rows").alias("rows"),
            F.sum("clicks").alias("clicks"),
            F.count("*").alias(f"{who}s"),
            F.avg("_shared").alias(f"shared_{who}s"),
        )
    )
