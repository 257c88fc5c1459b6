"""Compute the table domain_stats from the table clicks."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def domain_stats(config: Config) -> dict[str, Any]:
    """Count rows, clicks, users and items by domain and day, and compare them with other domains and the day before.

    Examples:
        spark-submit jobs/domain_stats.py --config my.yaml
        spark-submit jobs/domain_stats.py --config my.yaml --set stats.ds=2026-01-31
    """
    from mamdr_core.lake.core.progress import progress
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.lake.stats import domain_stats as count

    with job_session("domain_stats", config) as spark, progress(spark, "domain_stats"):
        return count(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(domain_stats))
