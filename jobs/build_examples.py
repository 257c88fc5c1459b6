"""Build vocabularies and the table examples from the table clicks."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def build_examples(config: Config) -> dict[str, Any]:
    """Encode clicks as examples: vocabularies, splits, negatives, features and shards.

    Examples:
        spark-submit jobs/build_examples.py --config my.yaml
        spark-submit jobs/build_examples.py --config my.yaml --set examples.until=2026-01-31
    """
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.lake.examples.job import build_examples as build

    with job_session("build_examples", config) as spark:
        return build(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(build_examples))
