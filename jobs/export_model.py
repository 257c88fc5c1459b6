"""Write a run as one portable file, for torch and for ONNX."""

import sys
from typing import Any

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import Config


def export_model(config: Config) -> dict[str, Any]:
    """Write a run (export.run_id) as files that need neither this code nor a lake, and check them; see export.* keys.

    model.pt2 is for torch.export.load, model.onnx for any ONNX runtime; each contains theta_S and every theta_i or
    the mixed model, and takes (features, domain). docs/serving.md shows how to call them.

    Examples:
        spark-submit jobs/export_model.py --config conf/demo.yaml
        spark-submit jobs/export_model.py --config conf/demo.yaml --set export.run_id=champion --set export.folder=model
    """
    from mamdr_core.lake.core.tables import job_session
    from mamdr_core.serving.exporting import export_model as export

    with job_session("export_model", config) as spark:
        return export(spark, config)


if __name__ == "__main__":
    sys.exit(run_job(export_model))
