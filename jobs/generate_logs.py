"""Generate synthetic logs whose click probabilities are known."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def generate_logs(config: Config) -> dict[str, Any]:
    """Write synthetic logs with known click probabilities to input.path (docs/synthetic.md).

    Examples:
        spark-submit jobs/generate_logs.py --config conf/demo.yaml
        spark-submit jobs/generate_logs.py --config conf/production.yaml --set synthetic.rows=1000000
    """
    from mamdr_core.datasets.synthetic import generate_logs as write_logs
    from mamdr_core.lake.core.session import spark_session

    with spark_session("generate_logs") as spark:
        return write_logs(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(generate_logs))
