"""evaluate: measure a model package on a split of the examples that it was trained on."""

from typing import Any

import torch
from pyspark.sql import SparkSession

from mamdr_core.config import Config
from mamdr_core.pace import Pace
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.training.building import make_engine
from mamdr_core.training.choices import place_columns
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.records import record_metrics
from mamdr_core.training.trained import open_trained


def evaluate_package(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Measure a package, at the Delta versions that it was trained on, and rewrite its rows in domain_metrics.

    Returns:
        run_id, package, split, rows, domains_measured, auc (mean over domains), weighted_auc, logloss,
        examples_version.

    Raises:
        MamdrError: no such run or package, or a damaged one.
    """
    trained = open_trained(spark, config, config.evaluate.run_id, config.evaluate.package)
    split, pinned, package = config.evaluate.split, trained.pinned, trained.package
    columns = place_columns({split: trained.share.columns(split)}, trained.device, SingleProcess())[split]
    engine = make_engine(trained.config, pinned, trained.share, trained.device)
    columns = package.under_mixed(columns, engine, trained.config.train.mixed)
    with torch.no_grad():
        measured = evaluate_columns(
            engine, package.shared, package.specific, columns, pace=Pace(f"measuring {split}", len(columns))
        )
    record_metrics(spark, trained.lake, trained.run_id, pinned.domain_ids, {split: measured})
    known = ~measured.logloss.isnan()
    return {
        "run_id": trained.run_id,
        "package": trained.folder,
        "split": split,
        "rows": int(measured.rows.sum()),
        "domains_measured": int((~measured.auc.isnan()).sum()),
        "auc": _known(measured.mean_auc()),
        "weighted_auc": _known(measured.weighted_auc()),
        "logloss": _known(float((measured.logloss * measured.rows)[known].sum() / measured.rows.sum())),
        "examples_version": pinned.versions["examples"],
    }


def _known(value: float) -> float | None:
    return None if value != value else value
