"""Measure a model package on a split of the examples."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def evaluate(config: Config) -> dict[str, Any]:
    """Measure a model package on a split of the examples version that it was trained on; see evaluate.* keys.

    Examples:
        spark-submit jobs/evaluate.py --config my.yaml
        spark-submit jobs/evaluate.py --config my.yaml --set evaluate.split=val
    """
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.training.evaluate import evaluate_package

    with job_session("evaluate", config) as spark:
        return evaluate_package(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(evaluate))
