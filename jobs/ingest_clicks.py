"""Load raw logs into the tables clicks and clicks_rejected."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def ingest_clicks(config: Config) -> dict[str, Any]:
    """Check every row of the raw log; write it to clicks, by day, or to clicks_rejected with the rule that it failed.

    Examples:
        spark-submit jobs/ingest_clicks.py --config my.yaml
        spark-submit jobs/ingest_clicks.py --config my.yaml --set input.path=/data/logs/day=2026-01-31
        spark-submit jobs/ingest_clicks.py --config my.yaml --set input.path=/data/inbox --set input.arriving=true
    """
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.lake.ingest.arrivals import ingest_arrived
    from mamdr_core.lake.ingest.job import ingest_clicks as ingest

    with job_session("ingest_clicks", config) as spark:
        return (ingest_arrived if config.input.arriving else ingest)(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(ingest_clicks))
