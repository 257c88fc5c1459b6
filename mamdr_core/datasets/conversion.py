"""What the converters of public sources share: their folders, and their counts beside the paper's."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config import Config
from mamdr_core.datasets.paper_tables import DomainCounts, LogCounts, PaperSet, compare
from mamdr_core.datasets.settings import ConvertSettings
from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.files import Files

logger = logging.getLogger(__name__)


def source_folder(spark: SparkSession, settings: ConvertSettings) -> Files:
    """The folder of the downloaded files.

    Raises:
        MamdrError: `convert.path` is not set or is no folder.
    """
    if not settings.path:
        raise MamdrError("convert.path is not set: name the folder of the downloaded files (docs/public_sources.md)")
    files = Files(spark, settings.path)
    if not files.exists() or files.is_file():
        raise MamdrError(f"convert.path: {files.root} is no folder; name the folder of the downloaded files")
    return files


def own_folder(spark: SparkSession, config: Config, job: str, suffix: str = "") -> Files:
    """The folder to write to, `input.path` with a suffix: new, empty, or this job's earlier output.

    Raises:
        MamdrError: `input.path` is not set, is not for Parquet, or holds something that this job did not write.
    """
    if not config.input.path:
        raise MamdrError("input.path is not set: name the folder for the converted log")
    if config.input.format != "parquet":
        raise MamdrError(f"input.format: {job} writes parquet, got {config.input.format}")
    files = Files(spark, f"{config.input.path.rstrip('/')}{suffix}")
    children = files.children()
    if files.is_file() or (children and _marker(job) not in children):
        raise MamdrError(f"input.path: {files.root} holds something that {job} did not write; name a new folder")
    return files


def publish(rows: DataFrame, files: Files, job: str, settings: ConvertSettings) -> None:
    """Replace the folder's earlier output; its files appear together, when all are written."""
    files.delete()
    files.write_text(json.dumps({"job": job, "convert": asdict(settings)}, indent=2), _marker(job))
    # Spark writes to a folder that readers skip and moves the files when the last task has ended.
    rows.write.mode("append").parquet(files.root)


def count_faults(groups: DataFrame) -> dict[str, int]:
    """Rejected rows by fault, of groups with `fault` (null: none) and `rows`."""
    faulty = groups.where(F.col("fault").isNotNull()).groupBy("fault").agg(F.sum("rows").alias("rows"))
    return {row["fault"]: row["rows"] for row in faulty.orderBy("fault").collect()}


def count_log(pairs: DataFrame) -> LogCounts:
    """Count a log of one row per user, item and domain; `clicks` is how often the paper counts the pair."""
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
    """A converted log in figures, compared with the paper's where it is the paper's set; says so in the log.

    Args:
        counts: of the log.
        domains: in the order in which to list them.
        paper: what the log must reproduce; None: nothing.

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
        logger.warning("differs from the paper's %s: %s", paper.name, listed)
    elif paper:
        logger.info("reproduces the paper's %s (Tables 1 and 6-8)", paper.name)
    else:
        logger.info("not compared with the paper: these are not exactly the domains of one of its data sets")
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
