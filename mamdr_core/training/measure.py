"""evaluate: measure a model package on a split of the examples that it was trained on."""

from typing import Any

import numpy as np
import torch
import yaml
from pyspark.sql import SparkSession

from mamdr_core.config import Config, parse_config
from mamdr_core.engine.device import choose_device
from mamdr_core.errors import MamdrError
from mamdr_core.lake.tables import Lake
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import pin_examples
from mamdr_core.training.building import make_engine, place_columns
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.package import load_package
from mamdr_core.training.records import find_run, record_metrics


def evaluate_package(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Measure a package, at the Delta versions that it was trained on, and rewrite its rows in domain_metrics.

    Returns:
        run_id, package, split, rows, domains_measured, auc (mean over domains), weighted_auc, logloss,
        examples_version.

    Raises:
        MamdrError: no such run or package, or a damaged one.
    """
    lake = Lake(spark, config.lake.root)
    folder = config.evaluate.package or find_run(lake, config.evaluate.run_id)["package"]
    device = choose_device(config.train.device)
    package = load_package(folder, device)
    trained = parse_config(yaml.safe_load(package.config))
    pinned = pin_examples(spark, config.lake.root, trained.features, package.pinned["versions"])
    if pinned.sizes != package.pinned["sizes"]:
        raise MamdrError(f"package {folder} was trained on another lake than {lake.root}: vocabulary sizes differ")
    everything = np.ones(len(pinned.domain_ids), dtype=np.bool_)
    share = Share(pinned, trained.features, everything, config.train.host_memory, config.train.scratch)
    split = config.evaluate.split
    columns = place_columns({split: share.columns(split)}, device)[split]
    engine = make_engine(trained, pinned, share, device)
    with torch.no_grad():
        measured = evaluate_columns(engine, package.shared, package.specific, columns)
    run_id = package.metrics["run_id"]
    record_metrics(spark, lake, run_id, pinned.domain_ids, {config.evaluate.split: measured})
    known = ~measured.logloss.isnan()
    return {
        "run_id": run_id,
        "package": folder,
        "split": config.evaluate.split,
        "rows": int(measured.rows.sum()),
        "domains_measured": int((~measured.auc.isnan()).sum()),
        "auc": _known(measured.mean_auc()),
        "weighted_auc": _known(measured.weighted_auc()),
        "logloss": _known(float((measured.logloss * measured.rows)[known].sum() / measured.rows.sum())),
        "examples_version": pinned.versions["examples"],
    }


def _known(value: float) -> float | None:
    return None if value != value else value
