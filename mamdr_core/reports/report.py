"""report: the results of a run as one self-contained HTML file."""

import logging
import time
from typing import Any

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.reports.facts import read_facts
from mamdr_core.reports.page import render
from mamdr_core.training.tracking.tracking import attach

logger = logging.getLogger(__name__)


def write_report(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Write <lake.root>/reports/<run_id>.html, replacing an earlier one, and attach it to MLflow if configured.

    Returns:
        run_id, report (its path), bytes, domains, seconds by phase.

    Raises:
        MamdrError: unknown run, no successful run, or no promoted run.
    """
    started = time.perf_counter()
    lake = Lake(spark, config.lake)
    facts = read_facts(lake, config.report)
    read = time.perf_counter()
    page = render(facts, config.report.listed)
    name = f"{facts.run['run_id']}.html"
    Files(spark, lake.root).write_text(page, "reports", name)
    attach(config.tracking, facts.run["run_id"], name, page)
    size = len(page.encode("utf-8"))
    path = lake.path_of("reports", name)
    logger.info("report of run %s: %s, %.1f MB", facts.run["run_id"], path, size / 1e6)
    return {
        "run_id": facts.run["run_id"],
        "report": path,
        "bytes": size,
        "domains": len(facts.ids),
        "seconds": {"read": round(read - started, 2), "write": round(time.perf_counter() - read, 2)},
    }
