"""The job evaluate: measures a model package on a split of the examples version that it was trained on."""

from typing import Any

import torch
from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.pace import ProgressLog
from mamdr_core.training.building import make_engine
from mamdr_core.training.choices import place_columns
from mamdr_core.training.evaluation import evaluate_calibrated
from mamdr_core.training.records import none_if_nan, overall_figures, record_metrics, uncalibrated_figures
from mamdr_core.training.trained_run import open_trained


def evaluate_package(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Measure a package on the examples version that it was trained on, and replace its rows in domain_metrics.

    Returns:
        run_id, package, split, rows, domains_measured, auc (mean over domains), weighted_auc, gauc, ndcg and hit_rate
        (by cutoff), pcoc, calibration_error, logloss, examples_version; for a calibrated run also uncalibrated (pcoc
        and calibration_error without calibration).

    Raises:
        MamdrError: no such run or package, a damaged package, or examples without ids of `metrics.group`.
    """
    split = config.evaluate.split
    trained = open_trained(spark, config, config.evaluate.run_id, [split], config.evaluate.package)
    pinned, package = trained.pinned, trained.package
    columns = place_columns({split: trained.share.columns(split)}, trained.device, SingleProcess())[split]
    engine = make_engine(trained.config, pinned, trained.share, trained.device)
    columns = package.with_mixed_logits(columns, engine, trained.config.train.mixed)
    with torch.no_grad():
        pace = ProgressLog(f"measuring {split}", len(columns))
        specific = package.specific
        calibrations = [package.calibration, *([None] if package.calibration else [])]
        measured, *plain = evaluate_calibrated(
            engine, package.shared, specific, columns, calibrations, pace=pace, detail=config.metrics
        )
    record_metrics(trained.lake, trained.run_id, pinned.domain_ids, {split: measured})
    has_rows = ~measured.logloss.isnan()
    return {
        "run_id": trained.run_id,
        "package": trained.folder,
        "split": split,
        "rows": int(measured.rows.sum()),
        "domains_measured": int((~measured.auc.isnan()).sum()),
        "auc": none_if_nan(measured.mean_auc()),
        "weighted_auc": none_if_nan(measured.weighted_auc()),
        **overall_figures(measured),
        "logloss": none_if_nan(float((measured.logloss * measured.rows)[has_rows].sum() / measured.rows.sum())),
        "examples_version": pinned.versions["examples"],
        **uncalibrated_figures(plain[0] if plain else None),
    }
