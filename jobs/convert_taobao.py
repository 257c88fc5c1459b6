"""Convert the paper's Taobao source to a log and vectors."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def convert_taobao(config: Config) -> dict[str, Any]:
    """Convert the Cloud Theme files in convert.path to a log of clicks in input.path and vectors next to it.

    See docs/public_sources.md.

    Example:
        spark-submit jobs/convert_taobao.py --config conf/taobao10.yaml --set convert.path=/data/cloud_theme
    """
    from mamdr_core.datasets.taobao import convert_taobao as convert
    from mamdr_core.lake.core.progress import progress
    from mamdr_core.lake.core.session import spark_session

    with spark_session("convert_taobao") as spark, progress(spark, "convert_taobao"):
        return convert(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(convert_taobao))
