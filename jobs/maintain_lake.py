"""Compact and clean up the tables of the lake."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def maintain_lake(config: Config) -> dict[str, Any]:
    """Compact small files, and remove files that no recent version and no input of a kept run needs.

    Examples:
        spark-submit jobs/maintain_lake.py --config my.yaml --set maintain.dry_run=true
        spark-submit jobs/maintain_lake.py --config my.yaml --set maintain.retention_days=14
    """
    from mamdr_core.lake.core.progress import progress
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.lake.maintenance.job import maintain_lake as maintain

    with job_session("maintain_lake", config) as spark, progress(spark, "maintain_lake"):
        return maintain(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(maintain_lake))
