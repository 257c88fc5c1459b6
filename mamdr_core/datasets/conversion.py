"""Shared by the converters of public sources: input and output folders, and counts compared with the paper."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.datasets import ConvertSettings
from mamdr_core.config.job_config import Config
from mamdr_core.datasets.paper_tables import DomainCounts, LogCounts, PaperSet, compare
from mamdr_core.lake.core.files import Files
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)


def source_folder(spark: SparkSession, settings: ConvertSettings) -> Files:
    """The folder of the downloaded files.

    Raises:
        MamdrError: `convert.path` is not set or not a folder.
    """
    if not settings.path:
        raise MamdrError(
            "convert.path is not set: set it to the folder of the downloaded files (docs/public_sources.md)"
        )
    files = Files(spark, settings.path)
    if not files.exists() or files.is_file():
        raise MamdrError(f"convert.path: {files.root} is not a folder; set it to the folder of the downloaded files")
    return files


def output_folder(spark: SparkSession, config: Config, job: str, suffix: str = "", marker: str = "") -> Files:
    """The output folder, `input.path` with a suffix: new, empty, or earlier output of the job.

    Args:
        marker: file that marks output of the job; by default `_<job>.json`.

    Raises:
        MamdrError: `input.path` is not set, has a format other than Parquet, or holds something else.
    """
    if not config.input.path:
        raise MamdrError(f"input.path is not set: set it to the output folder of {job}")
    if config.input.format != "parquet":
        raise MamdrError(f"input.format: {job} writes parquet, got {config.input.format}")
    files = Files(spark, f"{config.input.path.rstrip('/')}{suffix}")
    children = files.children()
    if files.is_file() or (children and (marker or _marker(job)) not in children):
        raise MamdrError(f"input.path: {files.root} holds something that {job} did not write; use a new folder")
    return files


def publish(rows: DataFrame, files: Files, job: str, settings: ConvertSettings) -> None:
    """Replace earlier output of the folder; the files become visible together."""
    files.delete()
    files.write_text(json.dumps({"job": job, "convert": asdict(settings)}, indent=2), _marker(job))
    # Spark writes to a hidden folder and moves the files when the last task has finished.
    rows.write.mode("append").parquet(files.root)


def count_faults(groups: DataFrame) -> dict[str, int]:
    """Number of rejected rows by fault; `groups` has the columns `fault` (null: none) and `rows`."""
    faulty = groups.where(F.col("fault").isNotNull()).groupBy("fault").agg(F.sum("rows").alias("rows"))
    return {row["fault"]: row["rows"] for row in faulty.orderBy("fault").collect()}


def count_log(pairs: DataFrame) -> LogCounts:
    """Count a log with one row per user, item and domain, whose column `clicks` is the count in the paper."""
    by_user = pairs.groupBy("domain", "user").agg(F.sum("clicks").alias("clicks"), F.count("*").alias("items"))
    users: dict[str, dict[tuple[int, int], int]] = {}
    for row in by_user.groupBy("domain", "clicks", "items").agg(F.count("*").alias("users")).collect():
        users.setdefault(row["domain"], {})[row["clicks"], row["items"]] = row["users"]
    items = pairs.select("domain", "item").distinct().groupBy("domain").agg(F.count("*").alias("items")).collect()
    return LogCounts(
        users=pairs.select("user").distinct().count(),
        items=pairs.select("item").distinct().count(),
        domains={row["domain"]: DomainCounts(row["items"], users[row["domain"]]) for row in items},
    )


def describe(counts: LogCounts, domains: Iterable[str], paper: PaperSet | None) -> dict[str, Any]:
    """Figures of a converted log, compared with the data set of the paper that it must reproduce, if any; logs them.

    Returns:
        clicks, users, items, domains, by_domain, paper_set, matches_paper (null: not compared), differences.
    """
    by_domain: dict[str, dict[str, int]] = {}
    for name in domains:
        domain = counts.domains[name]
        by_domain[name] = {"clicks": domain.clicks, "users": domain.users, "items": domain.items}
        if paper:
            by_domain[name]["paper_samples"] = domain.samples(paper.domains[name][1])
    differences = compare(counts, paper) if paper else {}
    if paper and differences:
        listed = ", ".join(f"{figure} {both['found']} (paper {both['paper']})" for figure, both in differences.items())
        logger.warning("differs from %s of the paper: %s", paper.name, listed)
    elif paper:
        logger.info("reproduces %s of the paper (Tables 1 and 6-8)", paper.name)
    else:
        logger.info("not compared with the paper: the domains are not exactly those of one of its data sets")
    return {
        "clicks": sum(domain["clicks"] for domain in by_domain.values()),
        "users": counts.users,
        "items": counts.items,
        "domains": len(by_domain),
        "by_domain": by_domain,
        "paper_set": paper.name if paper else None,
        "matches_paper": not differences if paper else None,
        "differences": differences,
    }


def _marker(job: str) -> str:
    return f"_{job}.json"
