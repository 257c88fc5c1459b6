"""Compare learning methods and models over seeds."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def compare_methods(config: Config) -> dict[str, Any]:
    """Train every model and method with every seed, and report AUC, RANK and a paired test; see compare.* keys.

    Trials with one rank run in parallel. A comparison that is started again runs only the trials that have not
    finished. Writes the table comparisons, and comparison.md and comparison.tex below <lake.root>/reports/<name>/.

    Examples:
        spark-submit jobs/compare_methods.py --config my.yaml --set 'compare.methods=[joint, dn, mamdr]'
        spark-submit jobs/compare_methods.py --config conf/amazon6.yaml --config conf/table5.yaml
    """
    from mamdr_core.experiments import compare
    from mamdr_core.lake.core.tables import job_session

    with job_session("compare_methods", config) as spark:
        return compare.compare_methods(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(compare_methods))
