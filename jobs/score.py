"""Predict click probabilities for rows of user, item and domain."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def score(config: Config) -> dict[str, Any]:
    """Predict click probabilities with a run (score.run_id) for rows of user, item and domain; see score.* keys.

    Writes the table scores; running a batch (score.batch) again replaces it. Without score.input.path the test split of
    the run's examples is scored. With score.top_k=K the rows contain users and domains, and each gets the K best
    items of score.candidates.

    Examples:
        spark-submit jobs/score.py --config conf/demo.yaml
        spark-submit jobs/score.py --config conf/demo.yaml --set score.run_id=champion --set score.batch=today
        spark-submit jobs/score.py --config conf/demo.yaml --set score.input.path=requests/day=2026-01-02
        spark-submit jobs/score.py --set 'score={top_k: 20, input: {path: users}, candidates: {path: items}}'
    """
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.serving.scoring import score as score_rows

    with job_session("score", config) as spark:
        return score_rows(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(score))
