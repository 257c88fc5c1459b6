"""Remove the rows of given users from the lake."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def forget_users(config: Config) -> dict[str, Any]:
    """Remove the rows of given users from every table, and report which versions still contain them.

    Examples:
        spark-submit jobs/forget_users.py --config my.yaml --set 'forget.users=[u17, u42]' --set forget.dry_run=true
        spark-submit jobs/forget_users.py --config my.yaml --set forget.path=/data/forget/2026-01.txt
        spark-submit jobs/forget_users.py --config my.yaml --set forget.release=true
    """
    from mamdr_core.lake.core.progress import progress
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.lake.maintenance.forget import forget_users as forget

    with job_session("forget_users", config) as spark, progress(spark, "forget_users"):
        return forget(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(forget_users))
