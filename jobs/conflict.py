"""Measure how much the gradients of domains conflict."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def conflict(config: Config) -> dict[str, Any]:
    """Measure cosines between gradients of domains at theta_S of a run, before and after rounds of DN; see conflict.*.

    Writes the tables conflicts and domain_conflicts and, if all pairs are measured, heat maps below
    <lake.root>/reports/<run_id>/.

    Examples:
        spark-submit jobs/conflict.py --config my.yaml
        spark-submit jobs/conflict.py --config my.yaml --set conflict.run_id=20260101T120000-mamdr-0123ab
    """
    from mamdr_core.experiments.conflict import measure_conflict
    from mamdr_core.lake.core.tables import job_session

    with job_session("conflict", config) as spark:
        return measure_conflict(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(conflict))
