"""Measure what each feature adds to the AUC of a run."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def feature_importance(config: Config) -> dict[str, Any]:
    """Measure how far a run's AUC drops if a feature's values are permuted within each domain.

    Writes the table feature_importance, for all domains together and by domain (docs/metrics.md). Keys: importance.*.

    Examples:
        spark-submit jobs/feature_importance.py --config my.yaml
        spark-submit jobs/feature_importance.py --config my.yaml --set 'importance.features=[user, item]'
    """
    from mamdr_core.experiments.feature_importance import measure_features
    from mamdr_core.lake.core.tables import job_session

    with job_session("feature_importance", config) as spark:
        return measure_features(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(feature_importance))
