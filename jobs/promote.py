"""Promote a run, or roll back."""

import sys
from typing import Any

from mamdr_core.config.command_line import Option, run_job
from mamdr_core.config.job_config import Config


def promote(config: Config) -> dict[str, Any]:
    """Let a run serve that has passed the gate, or with --rollback return to one that has served before.

    The table promotions records which run served when. Promoting the champion, a run of an earlier day than the
    champion's, or a run that has served before changes nothing; the result states why.

    Examples:
        spark-submit jobs/promote.py --config my.yaml
        spark-submit jobs/promote.py --config my.yaml --set promote.run_id=20260101T120000-mamdr-0123ab
        spark-submit jobs/promote.py --config my.yaml --rollback
        spark-submit jobs/promote.py --config my.yaml --rollback 20260101T120000-mamdr-0123ab
    """
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.promotion.promote import promote as move_champion

    with job_session("promote", config) as spark:
        return move_champion(spark, config)


ROLLBACK = Option(
    "--rollback",
    key="promote.rollback",
    metavar="RUN_ID",
    const="previous",
    help="return to this run, which has served before; without RUN_ID to the one that served before the champion",
)

if __name__ == "__main__":
    sys.exit(run_job(promote, own=[ROLLBACK]))
