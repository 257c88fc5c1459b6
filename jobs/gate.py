"""Decide whether a trained run may serve."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def gate(config: Config) -> dict[str, Any]:
    """Compare a run with the champion on the same rows, and decide by the limits of gate.* whether it may serve.

    The decision and its reasons are in the table gate_decisions, by domain in gate_domains. A run that does
    not pass is a result, not an error: the exit code is 0, with "passed": false.

    Examples:
        spark-submit jobs/gate.py --config my.yaml
        spark-submit jobs/gate.py --config my.yaml --set gate.run_id=20260101T120000-mamdr-0123ab
        spark-submit jobs/gate.py --config my.yaml --set gate.max_auc_drop=0.01
    """
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.promotion.gate import decide

    with job_session("gate", config) as spark:
        return decide(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(gate))
