"""Plans the rows of each domain, and its number of negatives, on the driver."""

import logging
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.lake import ExamplesSettings
from mamdr_core.lake.core.few import local_frame, small
from mamdr_core.lake.core.hashing import hash64, uniform
from mamdr_core.lake.core.listing import list_first
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)

ROWS_A_PART = 10_000
"""Pairs of a part in which a domain is ranked; small, so that tasks have about equal sizes."""


@dataclass(frozen=True)
class DomainPlan:
    """Plan of a domain; `missing` negatives are required by its ratio but exceed its unclicked pairs."""

    domain: int
    clicks: int
    items: int = 0
    negatives: int = 0
    missing: int = 0

    @property
    def rows(self) -> int:
        """Number of examples of the domain."""
        return self.clicks + self.negatives


def check_ratios(domains: Set[str], settings: ExamplesSettings) -> None:
    """Check that each domain has a ratio if `ctr_ratio` is a mapping; warn of ratios of domains without clicks.

    Args:
        domains: raw ids of the domains of clicks.

    Raises:
        MamdrError: a domain has no ratio.
    """
    ratios = settings.negatives.ctr_ratio
    if settings.negatives.kind == "none" or not isinstance(ratios, dict):
        return
    if lacking := domains - ratios.keys():
        raise MamdrError(f"examples.negatives.ctr_ratio is a mapping and has no ratio for {_some(lacking)}")
    if unused := ratios.keys() - domains:
        logger.warning("examples.negatives.ctr_ratio maps %s without a click", _some(unused))


def count_domains(rows: DataFrame, settings: ExamplesSettings) -> list[Row]:
    """Count domains: domain, rows, distinct users and items, and `ratio`.

    Args:
        rows: clicked pairs: domain, and the hashes of user, item and domain.
        settings: the ratios, checked by `check_ratios`.
    """
    # Two groupings instead of a distinct count over two columns, which would copy every row.
    users = rows.select("domain", "user_hash").distinct().groupBy("domain").agg(F.count("*").alias("users"))
    items = rows.select("domain", "item_hash").distinct().groupBy("domain").agg(F.count("*").alias("items"))
    counted = rows.groupBy("domain", "domain_hash").agg(F.count("*").alias("rows"))
    joined = counted.join(users, "domain", "inner").join(items, "domain", "inner")
    return _with_ratio(joined, settings).select("domain", "rows", "users", "items", "ratio").collect()


def plan_impressions(seen: Iterable[Mapping[str, Any]], indices: Mapping[str, int]) -> list[DomainPlan]:
    """The plans for a log with impressions, without sampled negatives.

    Args:
        seen: domain (the id), rows, positives.
        indices: index by id of the domain.
    """
    return [
        DomainPlan(indices[row["domain"]], row["positives"], negatives=row["rows"] - row["positives"]) for row in seen
    ]


def plan_domains(counts: list[Row]) -> list[DomainPlan]:
    """Plan the negatives of each domain: round(positives / ratio), but at most its unclicked pairs of user and item."""
    plans = []
    for row in counts:
        wanted = round(row["rows"] / row["ratio"])
        possible = min(wanted, row["users"] * row["items"] - row["rows"])
        plans.append(DomainPlan(row["domain"], row["rows"], row["items"], possible, wanted - possible))
    return plans


def plan_frame(spark: SparkSession, plans: list[DomainPlan]) -> DataFrame:
    """The plan as a frame with the columns `negatives.PLAN`."""
    rows = [(plan.domain, plan.clicks, plan.items, plan.negatives, 1 + plan.clicks // ROWS_A_PART) for plan in plans]
    return local_frame(spark, rows, "domain int, positives bigint, items bigint, negatives bigint, parts int")


def _with_ratio(domains: DataFrame, settings: ExamplesSettings) -> DataFrame:
    ratio = settings.negatives.ctr_ratio
    if isinstance(ratio, dict):
        mapped = local_frame(domains.sparkSession, list(ratio.items()), "id string, ratio double")
        # Encoded rows have lost the id and kept its hash.
        hashed = mapped.select(hash64(F.col("id")).alias("domain_hash"), "ratio")
        return domains.join(small(hashed), "domain_hash", "left")
    low, high = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    drawn = uniform(hash64("ratio", settings.seed, F.col("domain_hash")))
    return domains.withColumn("ratio", low + (high - low) * drawn)


def _some(domains: Set[str]) -> str:
    return f"domain{'s' if len(domains) > 1 else ''} {list_first(sorted(domains))}"
