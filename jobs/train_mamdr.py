"""Train a multi-domain recommender with MAMDR or another learning method."""

import sys
from typing import Any

from mamdr_core.config.command_line import Option, run_job
from mamdr_core.config.job_config import Config


def train_mamdr(config: Config) -> dict[str, Any]:
    """Train a multi-domain recommender with MAMDR (Luo et al., arXiv 2202.12524) or another learning method.

    Reads one Delta version of examples, trains on `train.ranks` ranks, writes a model package and the tables
    training_runs and domain_metrics. If the lake has no examples yet, they are first built from the raw log.
    A run that was killed or stopped resumes from its newest checkpoint with --resume. --dry-run checks everything
    that the run needs, up to one step on a few rows, and writes nothing.

    Examples:
        spark-submit jobs/train_mamdr.py --config conf/demo.yaml
        spark-submit jobs/train_mamdr.py --config my.yaml --set train.ranks=8 --set model.name=star
        spark-submit jobs/train_mamdr.py --config my.yaml --resume
        spark-submit jobs/train_mamdr.py --config my.yaml --dry-run
    """
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.training import driver
    from mamdr_core.training.dry_run import dry_run

    with job_session("train_mamdr", config) as spark:
        return dry_run(spark, config) if config.train.dry_run else driver.train_mamdr(spark, config)


RESUME = Option(
    "--resume",
    key="train.resume",
    metavar="RUN_ID",
    const="newest",
    help="resume this run from its newest checkpoint; without RUN_ID the newest unfinished run with the same settings, "
    "or start a new run if there is none",
)

DRY_RUN = Option(
    "--dry-run",
    key="train.dry_run",
    metavar="",
    const="true",
    help="check config, examples, slots and ranks, memory by its formula and one step on a few rows, and stop; nothing "
    "is written to the lake",
)

if __name__ == "__main__":
    sys.exit(run_job(train_mamdr, own=[RESUME, DRY_RUN]))
