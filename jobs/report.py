"""Write the report of a run: one HTML file."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def report(config: Config) -> dict[str, Any]:
    """Write the report of a run to <lake.root>/reports/<run_id>.html: one file that needs no network.

    It shows the day's data, the training curves, AUC and calibration by domain, comparisons with joint training and
    the champion, the gate's decision and the time by phase. For missing figures it shows the command to run.

    Examples:
        spark-submit jobs/report.py --config my.yaml
        spark-submit jobs/report.py --config my.yaml --set report.run_id=champion
    """
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.reports.report import write_report

    with job_session("report", config) as spark:
        return write_report(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(report))
