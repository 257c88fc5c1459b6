"""Convert the paper's Amazon source to a log."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def convert_amazon(config: Config) -> dict[str, Any]:
    """Convert Amazon 2018 review files in convert.path to a log of clicks in input.path (docs/public_sources.md).

    Example:
        spark-submit jobs/convert_amazon.py --config conf/amazon6.yaml --set convert.path=/data/amazon2018
    """
    from mamdr_core.datasets.amazon import convert_amazon as convert
    from mamdr_core.lake.core.progress import progress
    from mamdr_core.lake.core.session import spark_session

    with spark_session("convert_amazon") as spark, progress(spark, "convert_amazon"):
        return convert(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(convert_amazon))
