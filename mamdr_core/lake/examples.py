"""build_examples: clicks become vocabularies and encoded examples in shards."""

import logging
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config import Config
from mamdr_core.errors import MamdrError
from mamdr_core.lake.caching import Keep, kept_frames
from mamdr_core.lake.encoding import (
    IDS,
    encode_features,
    encode_ids,
    first_of_pairs,
    row_key,
    sampled_key,
    with_hashes,
)
from mamdr_core.lake.features import declared_examples
from mamdr_core.lake.layout import assign_shards, lay_out
from mamdr_core.lake.negatives import sample_negatives
from mamdr_core.lake.packing import pack_domains
from mamdr_core.lake.plans import DomainPlan, count_domains, plan_domains, plan_frame
from mamdr_core.lake.tables import Lake
from mamdr_core.lake.vectors import update_vectors
from mamdr_core.lake.vocabularies import Growth, encode, update_vocabulary
from schemas import SPLITS, TABLES, feature_vocabulary

logger = logging.getLogger(__name__)


def build_examples(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Rebuild examples from one version of clicks; grow the vocabularies and refresh the feature vectors.

    Returns:
        examples, their rows by split, positives, negatives, negatives_missing, users, items, domains and how many of
        them are new, shards, one_class_domains, one_row_domains, clicks_version, examples_version.

    Raises:
        MamdrError: no clicks, none in the declared days, a declared feature that clicks lacks, sampled negatives for a
            log with impressions, or a faulty source of vectors. examples is as it was then.
    """
    table = declared_examples(config.features)
    lake = Lake(spark, config.lake.root)
    clicks_version = lake.version("clicks")
    clicks = _clicks(lake, clicks_version, config)
    growth = {name: update_vocabulary(lake, TABLES[f"{name}s"], clicks, name) for name in IDS}
    for feature in config.features:
        if feature.kind == "categorical" and not feature.buckets:
            update_vocabulary(lake, feature_vocabulary(feature.name), clicks, feature.name)
    update_vectors(spark, lake, config.features)

    with kept_frames() as keep:
        rows = _encode(clicks, lake, config)
        if config.examples.negatives.kind == "in_domain":
            rows = keep(rows)
            plans = plan_domains(count_domains(rows, config.examples), config.examples)
            rows = rows.unionByName(_negatives(rows, plans, config, keep), allowMissingColumns=True)
        else:
            # Counted apart, so that encoding and writing are one pass.
            domains = encode(clicks, "domain", lake.read("domains"), to="domain", small=True)
            plans = plan_domains(count_domains(domains, config.examples), config.examples)
        shards = config.examples.shards
        packing = pack_domains({plan.domain: plan.rows for plan in plans}, shards.rows, shards.count)
        examples = assign_shards(rows, plans, packing, config.examples)
        note = {"job": "build_examples", "clicks_version": clicks_version}
        lake.overwrite(table, lay_out(examples, packing.count), note)
    figures = {**count_examples(lake.read("examples")), **_growth(growth), "shards": packing.count}
    figures["negatives_missing"] = sum(plan.missing for plan in plans)
    logger.info("%(examples)d examples in %(shards)d shards, %(domains)d domains", figures)
    return {**figures, "clicks_version": clicks_version, "examples_version": lake.version("examples")}


def count_examples(examples: DataFrame) -> dict[str, int]:
    """Rows by split and by label, and domains that cannot be measured: of one class, of one row."""
    clicked = F.col("label").cast("long")
    by_domain = examples.groupBy("domain", "split").agg(F.count("*").alias("rows"), F.sum(clicked).alias("clicks"))
    rows: dict[int, int] = {}
    clicks: dict[int, int] = {}
    splits = dict.fromkeys(SPLITS, 0)
    for row in by_domain.collect():
        rows[row["domain"]] = rows.get(row["domain"], 0) + row["rows"]
        clicks[row["domain"]] = clicks.get(row["domain"], 0) + row["clicks"]
        splits[row["split"]] += row["rows"]
    return {
        "examples": sum(rows.values()),
        **{f"{split}_rows": count for split, count in splits.items()},
        "positives": sum(clicks.values()),
        "negatives": sum(rows.values()) - sum(clicks.values()),
        "one_class_domains": sum(clicks[domain] in (0, rows[domain]) for domain in rows),
        "one_row_domains": sum(count == 1 for count in rows.values()),
    }


def _clicks(lake: Lake, version: int, config: Config) -> DataFrame:
    settings = config.examples
    features = [feature.name for feature in config.features if feature.kind != "vector"]
    clicks = lake.read("clicks", version)
    missing = [name for name in features if name not in clicks.columns]
    if missing:
        raise MamdrError(f"clicks has no column {', '.join(missing)}: run ingest_clicks again with these features")
    if settings.since:
        clicks = clicks.where(F.col("ds") >= settings.since)
    if settings.until:
        clicks = clicks.where(F.col("ds") <= settings.until)
    counted = clicks.agg(F.count("*"), F.sum(1 - F.col("label"))).first()
    rows, impressions = counted if counted else (0, 0)
    if not rows:
        days = f"from {settings.since or 'the first day'} to {settings.until or 'the last'}"
        raise MamdrError(f"clicks of {lake.root} holds no row {days} (examples.since, examples.until)")
    if impressions and settings.negatives.kind == "in_domain":
        raise MamdrError(
            f"examples.negatives.kind in_domain is for logs of positives only, but {impressions} of {rows} clicks have "
            "label 0: set it to none, or leave input.columns.label empty"
        )
    return clicks.select(*IDS, "label", "event_time", "ds", "true_probability", *features)


def _encode(clicks: DataFrame, lake: Lake, config: Config) -> DataFrame:
    rows = with_hashes(clicks)
    if config.examples.negatives.kind == "in_domain":
        rows = first_of_pairs(rows)
    rows = encode_features(encode_ids(rows, lake), lake, config.features)
    return rows.withColumn("key", row_key()).drop("event_time")


def _negatives(pairs: DataFrame, plans: list[DomainPlan], config: Config, keep: Keep) -> DataFrame:
    carried = ["ds", *(feature.name for feature in config.features if feature.kind != "vector")]
    plan = plan_frame(pairs.sparkSession, plans)
    negatives = sample_negatives(pairs, plan, config.examples.seed, carried, keep)
    return negatives.withColumn("label", F.lit(0)).withColumn("key", sampled_key())


def _growth(growth: dict[str, Growth]) -> dict[str, int]:
    total = {f"{name}s": grown.total for name, grown in growth.items()}
    return {**total, **{f"new_{name}s": grown.new for name, grown in growth.items()}}
