"""The clicks that a build encodes: which they are, what grows with them, and the examples that they become."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config import Config
from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.encoding import (
    encode_features,
    encode_ids,
    first_of_pairs,
    row_key,
    sampled_key,
    with_hashes,
)
from mamdr_core.lake.examples.increments import Increment
from mamdr_core.lake.examples.negatives import sample_negatives
from mamdr_core.lake.examples.plans import (
    DomainPlan,
    check_ratios,
    count_domains,
    plan_domains,
    plan_frame,
    plan_impressions,
)
from mamdr_core.lake.examples.vocabularies import Growth, grown, id_column, update_domains, update_vocabulary
from schemas import TABLES, feature_vocabulary

logger = logging.getLogger(__name__)

SPLIT = "split"
"""The column of clicks that gives the split of a row, where the log does."""


@dataclass(frozen=True)
class News:
    """What a build encodes.

    Attributes:
        increment: how it is found, and what it replaces.
        clicks: to encode.
        all_clicks: of the declared days.
        seen: from `seen_domains` of what is to be encoded.
    """

    increment: Increment
    clicks: DataFrame
    all_clicks: DataFrame
    seen: list[Row]

    @property
    def rows(self) -> int:
        """Clicks to encode."""
        return sum(row["rows"] for row in self.seen)

    def newest(self, lake: Lake) -> date:
        """The newest day of what is encoded and of what stays."""
        days: list[date] = [row["newest"] for row in self.seen]
        increment = self.increment
        if increment.replaced:
            examples = lake.read("examples", increment.base)
            kept = examples.where(~F.expr(increment.replaced)).agg(F.max("ds")).collect()[0][0]
            days += [kept] if kept else []
        elif noted := increment.state.get("newest"):
            days.append(date.fromisoformat(noted))
        if not days:
            raise MamdrError(f"clicks of {lake.root} holds no row any more that examples could be made of")
        return max(days)


def select_clicks(lake: Lake, version: int, config: Config) -> DataFrame:
    """The clicks to encode: of the declared days, without retired domains, huge id spaces hashed.

    Raises:
        MamdrError: a declared feature that clicks lacks.
    """
    settings = config.examples
    features = [feature.name for feature in config.features if feature.kind != "vector"]
    split = [SPLIT] if settings.split.kind == "given" else []
    clicks = lake.read("clicks", version)
    if split and SPLIT not in clicks.columns:
        raise MamdrError(
            "examples.split.kind is given, and clicks has no column split: run ingest_clicks again with "
            "input.columns.split"
        )
    missing = [name for name in features if name not in clicks.columns]
    if missing:
        raise MamdrError(f"clicks has no column {', '.join(missing)}: run ingest_clicks again with these features")
    if settings.since:
        clicks = clicks.where(F.col("ds") >= settings.since)
    if settings.until:
        clicks = clicks.where(F.col("ds") <= settings.until)
    if settings.retired:
        clicks = clicks.where(~F.col("domain").isin(*settings.retired))
    ids = (id_column("user", settings.users).alias("user"), id_column("item", settings.items).alias("item"))
    return clicks.select(*ids, "domain", "label", "event_time", "ds", "load", "true_probability", *split, *features)


def seen_domains(clicks: DataFrame) -> list[Row]:
    """Every domain: its id, `hash` of it, rows, positives, its first day as `ds`, and its last as `newest`.

    Where the log gives the split, also `unsplit`: rows without one.
    """
    unsplit = [F.count_if(F.col(SPLIT).isNull()).alias("unsplit")] if SPLIT in clicks.columns else []
    counted = clicks.groupBy("domain").agg(
        F.count("*").alias("rows"),
        F.sum(F.col("label").cast("long")).alias("positives"),
        F.min("ds").alias("ds"),
        F.max("ds").alias("newest"),
        *unsplit,
    )
    return counted.withColumn("hash", hash64(F.col("domain"))).collect()


def check_news(news: News, lake: Lake, config: Config) -> None:
    """Check that clicks are there and of the kind that the settings name."""
    settings = config.examples
    rows, positives = news.rows, sum(row["positives"] for row in news.seen)
    if not rows and news.increment.replaced is None:
        days = f"from {settings.since or 'the first day'} to {settings.until or 'the last'}"
        raise MamdrError(f"clicks of {lake.root} holds no row {days} (examples.since, examples.until)")
    if rows > positives and settings.negatives.kind == "in_domain":
        raise MamdrError(
            f"examples.negatives.kind in_domain is for logs of positives only, but {rows - positives} of {rows} clicks "
            "have label 0: set it to none, or leave input.columns.label empty"
        )
    if settings.split.kind == "given" and (unsplit := sum(row["unsplit"] for row in news.seen)):
        raise MamdrError(
            f"examples.split.kind is given, and {unsplit} of {rows} clicks have no split: ingest them again with "
            "input.columns.split"
        )
    if config.input.columns.split and settings.split.kind != "given":
        logger.warning("input.columns.split is not used: examples.split.kind is %s, not given", settings.split.kind)
    check_ratios({row["domain"] for row in news.seen}, settings)


def grow_vocabularies(
    spark: SparkSession, lake: Lake, news: News, config: Config
) -> tuple[dict[str, Growth], dict[str, int]]:
    """Give new ids an index; returns what was done, and the index of every domain by its id.

    Of ids that need several rows to get one, the rows of all days are counted.
    """
    settings = config.examples
    if not news.seen:
        return {name: grown(lake, TABLES[f"{name}s"]) for name in ("user", "item", "domain")}, {}
    growth = {}
    for name, ids in (("user", settings.users), ("item", settings.items)):
        rows = news.clicks if ids.min_count == 1 else news.all_clicks
        growth[name] = update_vocabulary(lake, TABLES[f"{name}s"], rows, name, ids.min_count)
    for feature in config.features:
        if feature.kind == "categorical" and not feature.buckets:
            update_vocabulary(lake, feature_vocabulary(feature.name), news.clicks, feature.name)
    growth["domain"], domains = update_domains(lake, spark, news.seen)
    return growth, domains


def encode_news(
    news: News, lake: Lake, growth: Mapping[str, Growth], domains: Mapping[str, int], config: Config, keep: Keep
) -> tuple[DataFrame, list[DomainPlan]]:
    """The new rows, sampled negatives among them, and what was planned of each domain."""
    in_domain = config.examples.negatives.kind == "in_domain"
    rows = with_hashes(news.clicks)
    if in_domain:
        rows = first_of_pairs(rows)
    sizes = {name: grown.total for name, grown in growth.items()}
    rows = encode_features(encode_ids(rows, lake, sizes), lake, config.features)
    rows = rows.withColumn("key", row_key()).drop("event_time")
    if not in_domain:
        return rows, plan_impressions(news.seen, domains)
    rows = keep(rows)
    plans = plan_domains(count_domains(rows, config.examples))
    return rows.unionByName(_negatives(rows, plans, config, keep), allowMissingColumns=True), plans


def _negatives(pairs: DataFrame, plans: list[DomainPlan], config: Config, keep: Keep) -> DataFrame:
    split = [SPLIT] if SPLIT in pairs.columns else []
    carried = ["ds", "load", *split, *(feature.name for feature in config.features if feature.kind != "vector")]
    plan = plan_frame(pairs.sparkSession, plans)
    negatives = sample_negatives(pairs, plan, config.examples.seed, carried, keep)
    return negatives.withColumn("label", F.lit(0)).withColumn("key", sampled_key())
