"""build_examples: clicks become vocabularies and encoded examples in shards."""

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config import Config
from mamdr_core.errors import MamdrError
from mamdr_core.lake.caching import Keep, kept_frames
from mamdr_core.lake.encoding import (
    encode_features,
    encode_ids,
    first_of_pairs,
    row_key,
    sampled_key,
    with_hashes,
)
from mamdr_core.lake.features import declared_examples
from mamdr_core.lake.hashing import hash64
from mamdr_core.lake.layout import assign_shards, lay_out, writing
from mamdr_core.lake.log import COUNTED
from mamdr_core.lake.negatives import sample_negatives
from mamdr_core.lake.packing import pack_domains
from mamdr_core.lake.plans import DomainPlan, check_ratios, count_domains, plan_domains, plan_frame, plan_impressions
from mamdr_core.lake.progress import progress
from mamdr_core.lake.session import overriding, settings_for
from mamdr_core.lake.tables import Lake
from mamdr_core.lake.vectors import update_vectors
from mamdr_core.lake.versions import newest_versions
from mamdr_core.lake.vocabularies import Growth, id_column, update_domains, update_vocabulary
from schemas import SPLITS, TABLES, feature_vocabulary

logger = logging.getLogger(__name__)


def build_examples(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Rebuild examples from one version of clicks; grow the vocabularies and refresh the feature vectors.

    Returns:
        examples, their rows by split, positives, negatives, negatives_missing, users, items, domains and how many of
        them are new, shards, one_class_domains, one_row_domains, clicks_version, examples_version.

    Raises:
        MamdrError: no clicks, none in the declared days, a declared feature that clicks lacks, sampled negatives for a
            log with impressions, a faulty source of vectors, or other rows written than planned. Then examples keeps
            its rows, or has none where there was no table.
    """
    table = declared_examples(config.features)
    lake = Lake(spark, config.lake.root)
    clicks_version = lake.version("clicks")
    clicks = select_clicks(lake, clicks_version, config)
    with kept_frames() as keep, progress(spark, "build_examples"):
        seen = seen_domains(clicks)
        rows_in = _check(seen, lake, config)
        check_ratios({row["domain"] for row in seen}, config.examples)
        with overriding(spark, settings_for(spark, rows_in)):
            growth = _grow_vocabularies(lake, clicks, config)
            growth["domain"], domains = update_domains(lake, spark, seen)
            update_vectors(spark, lake, config.features)
            rows = _encode(clicks, lake, growth, config)
            if config.examples.negatives.kind == "in_domain":
                rows = keep(rows)
                plans = plan_domains(count_domains(rows, config.examples))
                rows = rows.unionByName(_negatives(rows, plans, config, keep), allowMissingColumns=True)
            else:
                plans = plan_impressions(seen, domains)
            shards = config.examples.shards
            packing = pack_domains({plan.domain: plan.rows for plan in plans}, shards.rows, shards.count)
            examples = lay_out(assign_shards(rows, plans, packing, config.examples), packing.count)
            # All vocabularies were opened above, and they only grow: these versions know every index of the rows.
            versions = newest_versions(lake, config.features)
            note = {"job": "build_examples", "clicks_version": clicks_version, "versions": versions}
            note |= {"build": uuid.uuid4().hex}  # of two builds at once each finds its own
            with overriding(spark, {**writing(shards, packing.count), **COUNTED}):
                lake.overwrite(table, examples, note)
        version = _verify(lake, note, plans)
    figures = {**_count(lake, version, plans), **_growth(growth), "shards": packing.count}
    logger.info("%(examples)d examples in %(shards)d shards, %(domains)d domains", figures)
    return {**figures, "clicks_version": clicks_version, "examples_version": version}


def _verify(lake: Lake, note: dict[str, Any], plans: list[DomainPlan]) -> int:
    """The version that was written, if it has as many rows as planned; else it is taken back.

    Raises:
        MamdrError: it has not.
    """
    version, written = lake.written("examples", note)
    planned = sum(plan.rows for plan in plans)
    if written != planned:
        outcome = (
            "that version is taken back" if lake.undo("examples", version - 1) else f"do not use version {version}"
        )
        raise MamdrError(f"examples: {planned} rows were planned and {written} written; {outcome}")
    return version


def _count(lake: Lake, version: int, plans: list[DomainPlan]) -> dict[str, int]:
    """Rows by split, from the commit; the rest, by label and domains that cannot be measured, from the plans."""
    splits = dict.fromkeys(SPLITS, 0) | lake.rows_added("examples", version, "split")
    positives = sum(plan.clicks for plan in plans)
    return {
        "examples": sum(splits.values()),
        **{f"{split}_rows": count for split, count in splits.items()},
        "positives": positives,
        "negatives": sum(plan.rows for plan in plans) - positives,
        "negatives_missing": sum(plan.missing for plan in plans),
        "one_class_domains": sum(plan.clicks in (0, plan.rows) for plan in plans),
        "one_row_domains": sum(plan.rows == 1 for plan in plans),
    }


def select_clicks(lake: Lake, version: int, config: Config) -> DataFrame:
    """The clicks to encode: of the declared days, without retired domains, huge id spaces hashed.

    Raises:
        MamdrError: a declared feature that clicks lacks.
    """
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
    if settings.retired:
        clicks = clicks.where(~F.col("domain").isin(*settings.retired))
    ids = (id_column("user", settings.users).alias("user"), id_column("item", settings.items).alias("item"))
    return clicks.select(*ids, "domain", "label", "event_time", "ds", "true_probability", *features)


def seen_domains(clicks: DataFrame) -> list[Row]:
    """Every domain: its id, `hash` of it, rows, positives, and its first day as `ds`."""
    counted = clicks.groupBy("domain").agg(
        F.count("*").alias("rows"),
        F.sum(F.col("label").cast("long")).alias("positives"),
        F.min("ds").alias("ds"),
    )
    return counted.withColumn("hash", hash64(F.col("domain"))).collect()


def _check(seen: list[Row], lake: Lake, config: Config) -> int:
    """The number of rows, if they can be built from."""
    settings = config.examples
    rows, positives = (sum(row[name] for row in seen) for name in ("rows", "positives"))
    if not rows:
        days = f"from {settings.since or 'the first day'} to {settings.until or 'the last'}"
        raise MamdrError(f"clicks of {lake.root} holds no row {days} (examples.since, examples.until)")
    if rows > positives and settings.negatives.kind == "in_domain":
        raise MamdrError(
            f"examples.negatives.kind in_domain is for logs of positives only, but {rows - positives} of {rows} clicks "
            "have label 0: set it to none, or leave input.columns.label empty"
        )
    return int(rows)


def _grow_vocabularies(lake: Lake, clicks: DataFrame, config: Config) -> dict[str, Growth]:
    settings = config.examples
    growth = {
        "user": update_vocabulary(lake, TABLES["users"], clicks, "user", settings.users.min_count),
        "item": update_vocabulary(lake, TABLES["items"], clicks, "item", settings.items.min_count),
    }
    for feature in config.features:
        if feature.kind == "categorical" and not feature.buckets:
            update_vocabulary(lake, feature_vocabulary(feature.name), clicks, feature.name)
    return growth


def _encode(clicks: DataFrame, lake: Lake, growth: Mapping[str, Growth], config: Config) -> DataFrame:
    rows = with_hashes(clicks)
    if config.examples.negatives.kind == "in_domain":
        rows = first_of_pairs(rows)
    sizes = {name: grown.total for name, grown in growth.items()}
    rows = encode_features(encode_ids(rows, lake, sizes), lake, config.features)
    return rows.withColumn("key", row_key()).drop("event_time")


def _negatives(pairs: DataFrame, plans: list[DomainPlan], config: Config, keep: Keep) -> DataFrame:
    carried = ["ds", *(feature.name for feature in config.features if feature.kind != "vector")]
    plan = plan_frame(pairs.sparkSession, plans)
    negatives = sample_negatives(pairs, plan, config.examples.seed, carried, keep)
    return negatives.withColumn("label", F.lit(0)).withColumn("key", sampled_key())


def _growth(growth: dict[str, Growth]) -> dict[str, int]:
    total = {f"{name}s": grown.total for name, grown in growth.items()}
    return {**total, **{f"new_{name}s": grown.new for name, grown in growth.items()}}
