"""Try settings of the learning methods."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def sweep(config: Config) -> dict[str, Any]:
    """Try settings on a grid, or search them with an equal number of trials for every method; see sweep.* keys.

    The best settings by validation AUC are compared as by compare_methods. A sweep that is started again runs only the
    trials that have not finished. Writes the tables sweeps and comparisons, and tables and figures below
    <lake.root>/reports/<name>/.

    Examples:
        spark-submit jobs/sweep.py --config my.yaml --config conf/search.yaml
        spark-submit jobs/sweep.py --config my.yaml --config conf/table10.yaml
    """
    from mamdr_core.experiments.sweep import sweep as try_settings
    from mamdr_core.lake.core.tables import job_session

    with job_session("sweep", config) as spark:
        return try_settings(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(sweep))
