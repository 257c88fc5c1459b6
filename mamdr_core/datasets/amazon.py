"""convert_amazon: converts Amazon 2018 review files (Ni et al. 2019) to a log of clicks (docs/public_sources.md)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.datasets import ConvertSettings
from mamdr_core.config.job_config import Config
from mamdr_core.config.lake import InputSettings
from mamdr_core.datasets.conversion import count_faults, count_log, describe, output_folder, publish, source_folder
from mamdr_core.datasets.paper_tables import LogCounts, find_paper_set
from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.unreadable import readable
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)

JOB = "convert_amazon"
# With a schema Spark parses only these fields and needs no pass to infer types.
_SCHEMA = "reviewerID string, asin string, overall double, unixReviewTime bigint, _malformed string"


def convert_amazon(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Write `input.path`: user, item, domain, event_time, one row per user, item and category.

    Returns:
        rows_in = clicks + repeated + rejected, rejected_by_fault, path, and the result of `conversion.describe`.

    Raises:
        MamdrError: the file of a category is missing, truncated or without a valid review, or the output folder belongs
            to something else.
    """
    settings = config.convert
    paths = category_files(spark, settings)
    output = output_folder(spark, config, JOB)
    with kept_frames() as keep:
        groups = keep(group_reviews(read_reviews(spark, paths)))
        with _readable(settings):
            faults = count_faults(groups)
        pairs = groups.where("fault IS NULL")
        counts = count_log(pairs)
        _check(settings, counts, faults)
        publish(pairs.select("user", "item", "domain", "event_time"), output, JOB, settings)
        rows = groups.agg(F.sum("rows")).first()
    paper = find_paper_set(counts.domains) if settings.five_core else None
    figures = describe(counts, settings.categories, paper)
    rows_in, rejected = int(rows[0]) if rows else 0, sum(faults.values())
    result = {
        "rows_in": rows_in,
        "repeated": rows_in - rejected - figures["clicks"],
        "rejected": rejected,
        "rejected_by_fault": faults,
        **figures,
        "path": output.root,
    }
    logger.info("%(rows_in)d reviews = %(clicks)d clicks + %(repeated)d repeated + %(rejected)d rejected", result)
    return result


def category_files(spark: SparkSession, settings: ConvertSettings) -> list[str]:
    """Paths of the files of the categories.

    Raises:
        MamdrError: no category is given, or the file of a category is missing.
    """
    files = source_folder(spark, settings)
    if not settings.categories:
        raise MamdrError("convert.categories is empty: list categories as in the file names, e.g. [Gift_Cards]")
    present = set(files.children())
    names = {category: f"{category}{_suffix(settings.five_core)}" for category in settings.categories}
    for category, name in names.items():
        if name not in present:
            other = f"{category}{_suffix(not settings.five_core)}"
            hint = (
                f" but has {other} (convert.five_core is {str(settings.five_core).lower()})" if other in present else ""
            )
            raise MamdrError(f"convert.path: {files.root} lacks {name}{hint}; download it (docs/public_sources.md)")
    return [files.path(name) for name in names.values()]


def read_reviews(spark: SparkSession, paths: list[str]) -> DataFrame:
    """Read reviews: reviewerID, asin, overall, unixReviewTime, _malformed (a line that cannot be parsed), domain."""
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": "_malformed"}
    reviews = spark.read.schema(_SCHEMA).options(**options).json(paths)
    domain = F.regexp_replace("_metadata.file_name", r"(_5)?\.json\.gz$", "")
    return reviews.select("*", domain.alias("domain"))


def group_reviews(reviews: DataFrame) -> DataFrame:
    """One row per domain, user and item, and one per domain and fault.

    Returns:
        domain; fault (null: none); user; item; event_time of the first review; rows; clicks, the number of reviews as
        the paper counts them: reviews with the same user, item and number of stars count once.
    """
    fault = (
        F.when(F.col("_malformed").isNotNull(), "malformed_line")
        .when(_blank("reviewerID"), "no_user")
        .when(_blank("asin"), "no_item")
        .when(F.col("unixReviewTime").isNull(), "no_time")
    )
    checked = reviews.withColumn("fault", fault)
    for name, field in (("user", "reviewerID"), ("item", "asin")):
        checked = checked.withColumn(name, F.when(F.col("fault").isNull(), F.col(field)))
    return checked.groupBy("domain", "fault", "user", "item").agg(
        F.timestamp_seconds(F.min("unixReviewTime")).alias("event_time"),
        F.count("*").alias("rows"),
        F.count_distinct(F.coalesce("overall", F.lit(0))).alias("clicks"),
    )


@contextmanager
def _readable(settings: ConvertSettings) -> Iterator[None]:
    """Turn errors of Spark about the downloaded files into MamdrError; must wrap the first action on them."""
    try:
        with readable(InputSettings(path=settings.path, format="json")):
            yield
    except MamdrError as error:
        what = str(error).partition(";")[0].removeprefix("input.path: ")
        raise MamdrError(f"convert.path: {what}; it may be truncated: download it again") from None


def _check(settings: ConvertSettings, counts: LogCounts, faults: dict[str, int]) -> None:
    for category in settings.categories:
        if category not in counts.domains:
            raise MamdrError(
                f"convert.path: {category}{_suffix(settings.five_core)} holds no review with reviewerID, asin and "
                f"unixReviewTime (rejected in all files: {faults or 'nothing'}); use the review files"
            )


def _blank(name: str) -> Column:
    return F.coalesce(F.trim(name), F.lit("")) == ""


def _suffix(five_core: bool) -> str:
    return "_5.json.gz" if five_core else ".json.gz"
