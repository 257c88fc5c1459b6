"""report: the results of a run, and the last days of its lake, each as one self-contained HTML file."""

import logging
import time
from typing import Any

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.reports.facts import read_facts
from mamdr_core.reports.lake_facts import read_lake_facts
from mamdr_core.reports.page import render, render_lake

logger = logging.getLogger(__name__)


def write_report(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Write <lake.root>/reports/<run_id>.html and index.html, the page of the lake, replacing earlier ones.

    The run's page is attached to MLflow if configured.

    Returns:
        run_id, report (its path), index (the path of the lake's page), bytes, domains, seconds by phase.

    Raises:
        MamdrError: unknown run, no successful run, or no promoted run.
    """
    started = time.perf_counter()
    lake = Lake(spark, config.lake)
    facts = read_facts(lake, config.report)
    read = time.perf_counter()
    page = render(facts, config.report.listed)
    name = f"{facts.run['run_id']}.html"
    files = Files(spark, lake.root)
    files.write_text(page, "reports", name)
    if config.tracking.mlflow:
        from mamdr_core.training.tracking.tracking import attach  # imports torch, which takes seconds

        attach(config.tracking, facts.run["run_id"], name, page)
    size = len(page.encode("utf-8"))
    path, index = lake.path_of("reports", name), lake.path_of("reports", "index.html")
    days = read_lake_facts(lake, config.report, files.children("reports"))
    files.write_text(render_lake(days, lake.root), "reports", "index.html")
    logger.info("report of run %s: %s, %.1f MB", facts.run["run_id"], path, size / 1e6)
    return {
        "run_id": facts.run["run_id"],
        "report": path,
        "index": index,
        "bytes": size,
        "domains": len(facts.ids),
        "seconds": {"read": round(read - started, 2), "write": round(time.perf_counter() - read, 2)},
    }
