"""What becomes of each domain: its rows, and how many negatives it gets. Counts over domains on the driver."""

import logging
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.lake import ExamplesSettings
from mamdr_core.lake.core.few import local_frame, small
from mamdr_core.lake.core.hashing import hash64, uniform
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)

ROWS_A_PART = 10_000
"""Domains with more pairs are ranked in several parts; small, so that many parts make tasks of equal size."""


@dataclass(frozen=True)
class DomainPlan:
    """One domain; `missing` are negatives that its ratio asks for and its users and items cannot give."""

    domain: int
    clicks: int
    items: int = 0
    negatives: int = 0
    missing: int = 0

    @property
    def rows(self) -> int:
        """Examples of the domain."""
        return self.clicks + self.negatives


def check_ratios(domains: Set[str], settings: ExamplesSettings) -> None:
    """Compare the domains of clicks, by their raw ids, with those that ctr_ratio maps, where it is a mapping.

    Domains that are mapped and have no click are logged.

    Raises:
        MamdrError: domains without a ratio.
    """
    ratios = settings.negatives.ctr_ratio
    if settings.negatives.kind == "none" or not isinstance(ratios, dict):
        return
    if lacking := domains - ratios.keys():
        raise _without_ratio(lacking)
    if unused := ratios.keys() - domains:
        logger.warning("examples.negatives.ctr_ratio maps %s without a click", _some(unused))


def count_domains(rows: DataFrame, settings: ExamplesSettings) -> list[Row]:
    """Per domain: domain, rows, its distinct users and items, and its `ratio`.

    Args:
        rows: clicked pairs: domain, and the hashes of user, item and domain.
        settings: the ratios; a mapping has been checked (`check_ratios`).
    """
    # Distinct users and items as counts of groups: a distinct count over two columns would copy every row.
    users = rows.select("domain", "user_hash").distinct().groupBy("domain").agg(F.count("*").alias("users"))
    items = rows.select("domain", "item_hash").distinct().groupBy("domain").agg(F.count("*").alias("items"))
    counted = rows.groupBy("domain", "domain_hash").agg(F.count("*").alias("rows"))
    joined = counted.join(users, "domain", "inner").join(items, "domain", "inner")
    return _with_ratio(joined, settings).select("domain", "rows", "users", "items", "ratio").collect()


def plan_impressions(seen: Iterable[Row], indices: Mapping[str, int]) -> list[DomainPlan]:
    """The plans of a log with impressions, to which nothing is added.

    Args:
        seen: domain (its id), rows, positives.
        indices: by the domain's id.
    """
    return [
        DomainPlan(indices[row["domain"]], row["positives"], negatives=row["rows"] - row["positives"]) for row in seen
    ]


def plan_domains(counts: list[Row]) -> list[DomainPlan]:
    """Decide each domain's negatives: round(positives / ratio), as far as its unclicked pairs of user and item go."""
    plans = []
    for row in counts:
        wanted = round(row["rows"] / row["ratio"])
        possible = min(wanted, row["users"] * row["items"] - row["rows"])
        plans.append(DomainPlan(row["domain"], row["rows"], row["items"], possible, wanted - possible))
    return plans


def plan_frame(spark: SparkSession, plans: list[DomainPlan]) -> DataFrame:
    """The plan as `sample_negatives` takes it."""
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


def _without_ratio(domains: Iterable[object]) -> MamdrError:
    return MamdrError(f"examples.negatives.ctr_ratio is a mapping and has no ratio for {_some(domains)}")


def _some(domains: Iterable[object]) -> str:
    names = sorted(map(str, domains))
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"domain{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{rest}"
