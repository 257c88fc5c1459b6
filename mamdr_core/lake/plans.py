"""What becomes of each domain: its rows, and how many negatives it gets. Counts over domains on the driver."""

from dataclasses import dataclass

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.hashing import hash64, uniform
from mamdr_core.lake.settings import ExamplesSettings

ROWS_A_PART = 200_000
"""Domains with more pairs are ranked in several parts."""


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


def count_domains(rows: DataFrame, settings: ExamplesSettings) -> list[Row]:
    """Per domain: domain, rows; with sampled negatives also its distinct users and items, and `drawn` in [0, 1)."""
    if settings.negatives.kind == "none":
        return rows.groupBy("domain").agg(F.count("*").alias("rows")).collect()
    # Distinct users and items as counts of groups: a distinct count over two columns would copy every row.
    users = rows.select("domain", "user").distinct().groupBy("domain").agg(F.count("*").alias("users"))
    items = rows.select("domain", "item").distinct().groupBy("domain").agg(F.count("*").alias("items"))
    drawn = uniform(hash64("ratio", settings.seed, F.col("domain_hash")))
    counted = rows.groupBy("domain", "domain_hash").agg(F.count("*").alias("rows"))
    joined = counted.join(users, "domain", "inner").join(items, "domain", "inner")
    return joined.select("domain", "rows", "users", "items", drawn.alias("drawn")).collect()


def plan_domains(counts: list[Row], settings: ExamplesSettings) -> list[DomainPlan]:
    """Decide each domain's negatives: round(positives / ratio), as far as its unclicked pairs of user and item go."""
    if settings.negatives.kind == "none":
        return [DomainPlan(row["domain"], row["rows"]) for row in counts]
    low, high = _ratio_range(settings.negatives.ctr_ratio)
    plans = []
    for row in counts:
        wanted = round(row["rows"] / (low + (high - low) * row["drawn"]))
        possible = min(wanted, row["users"] * row["items"] - row["rows"])
        plans.append(DomainPlan(row["domain"], row["rows"], row["items"], possible, wanted - possible))
    return plans


def plan_frame(spark: SparkSession, plans: list[DomainPlan]) -> DataFrame:
    """The plan as `sample_negatives` takes it."""
    rows = [(plan.domain, plan.clicks, plan.items, plan.negatives, 1 + plan.clicks // ROWS_A_PART) for plan in plans]
    return spark.createDataFrame(rows, "domain int, positives bigint, items bigint, negatives bigint, parts int")


def _ratio_range(ratio: float | tuple[float, float]) -> tuple[float, float]:
    return ratio if isinstance(ratio, tuple) else (ratio, ratio)
