"""The job feature_importance: permutes a run's features one by one on a split of its examples, on the driver."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
from pyspark.sql import SparkSession

from mamdr_core.config.experiments import ImportanceSettings
from mamdr_core.config.job_config import Config
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.metrics import DomainMetrics
from mamdr_core.experiments.permutation import Importance, choose_features, measure_importance, spread
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.sql import literal
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.building import make_engine
from mamdr_core.training.choices import place_columns
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.records import none_if_nan
from mamdr_core.training.rounds import shuffle_rows
from mamdr_core.training.trained_run import TrainedRun, open_trained
from schemas import TABLES
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)


def measure_features(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Measure the importance of a run's features, and replace the rows of the run and split in feature_importance.

    Returns:
        run_id, split, rows, domains_measured, auc (mean over domains) and weighted_auc without permutation, repeats,
        features (feature, kind, drop, std, weighted_drop, weighted_std; sorted by descending drop), examples_version.

    Raises:
        MamdrError: the run does not exist, its package is damaged, or it has no feature of a given name.
    """
    settings = config.importance
    trained = open_trained(spark, config, settings.run_id, [settings.split])
    kinds = {"user": "id", "item": "id", **{feature.name: feature.kind for feature in trained.config.features}}
    try:
        names = choose_features(settings.features, kinds)
    except ValueError as error:
        raise MamdrError(f"importance.features: run {trained.run_id} has no feature {error}") from None
    device = trained.device
    columns = place_columns({"rows": trained.share.columns(settings.split)}, device, SingleProcess())["rows"]
    columns, measure = _prepare(trained, columns)
    seeds = [derive_seed(settings.seed, repeat) for repeat in range(settings.repeats)]
    orders = [shuffle_rows(columns, seed, trained.share.arrays) for seed in seeds]
    with torch.no_grad():
        base, measured = measure_importance(measure, columns, names, list(trained.pinned.numeric), orders)
        found = []
        for importance in measured:
            found.append(importance)
            logger.info("permuting %s lowers the mean AUC by %.4f", importance.feature, importance.means_R.mean())
    _record(trained, settings, kinds, base, found)
    return {
        "run_id": trained.run_id,
        "split": settings.split,
        "rows": len(columns),
        "domains_measured": int((~base.auc.isnan()).sum()),
        "auc": none_if_nan(base.mean_auc()),
        "weighted_auc": none_if_nan(base.weighted_auc()),
        "repeats": settings.repeats,
        "features": sorted(
            ({"feature": each.feature, "kind": kinds[each.feature], **_overall(each)} for each in found),
            key=lambda each: -(each["drop"] or 0.0),
        ),
        "examples_version": trained.pinned.versions["examples"],
    }


def _prepare(trained: TrainedRun, columns: Columns) -> tuple[Columns, Callable[[Columns], DomainMetrics]]:
    """Columns with a separate id column for each vector, and a function that predicts and measures such columns.

    Thus a vector of users or items is permuted without their ids, and their ids (embedding and random effect) without
    the vector. If the run has a mixed model, it predicts the permuted rows too.
    """
    pinned, package = trained.pinned, trained.package
    engine = make_engine(trained.config, pinned, trained.share, trained.device)
    mixed = None
    if package.mixed is not None:
        settings, numeric = trained.config.train.mixed, len(pinned.numeric)
        mixed = MixedModel.from_state(settings, engine.tables, engine.frozen, numeric, pinned.sizes, package.mixed)
        mixed.design.columns = {name: name for name in mixed.design.columns}
    vectors = {feature.name for feature in trained.config.features if feature.kind == "vector"}
    vector_columns = {table.name: columns.ids[table.column] for table in engine.tables if table.name in vectors}
    engine.tables = tuple(
        replace(table, column=table.name) if table.name in vectors else table for table in engine.tables
    )
    columns = replace(columns, ids={**columns.ids, **vector_columns})
    return columns, partial(_measure, trained, engine, mixed)


def _measure(trained: TrainedRun, engine: EagerEngine, mixed: MixedModel | None, columns: Columns) -> DomainMetrics:
    columns = mixed.with_base_logits(columns) if mixed else columns
    return evaluate_columns(engine, trained.package.shared, trained.package.specific, columns)


def _overall(importance: Importance) -> dict[str, float | None]:
    """Mean drops over all domains, and their standard deviations over repeats."""
    (drop, std), (weighted, weighted_std) = spread(importance.means_R), spread(importance.weighted_R)
    named = {"drop": drop, "std": std, "weighted_drop": weighted, "weighted_std": weighted_std}
    return {name: none_if_nan(float(value)) for name, value in named.items()}


def _record(
    trained: TrainedRun,
    settings: ImportanceSettings,
    kinds: Mapping[str, str],
    base: DomainMetrics,
    found: list[Importance],
) -> None:
    table, split = TABLES["feature_importance"], settings.split
    last = (settings.repeats, settings.seed, datetime.now(UTC))
    ids, measured = trained.pinned.domain_ids, (~base.auc.isnan()).nonzero().flatten().tolist()
    auc_n, rows_n = base.auc.tolist(), base.rows.long().tolist()
    rows: list[tuple[Any, ...]] = []
    for each in found:
        first = (trained.run_id, split, each.feature, kinds[each.feature])
        drop, std, *weighted = _overall(each).values()
        overall = (sum(rows_n), none_if_nan(base.mean_auc()), drop, std, none_if_nan(base.weighted_auc()), *weighted)
        rows.append((*first, None, None, *overall, *last))
        drop_n, std_n = (figure.tolist() for figure in spread(each.drops_Rn))
        rows += [
            (*first, n, ids[n], rows_n[n], auc_n[n], none_if_nan(drop_n[n]), none_if_nan(std_n[n]), *[None] * 3, *last)
            for n in measured
        ]
    frame = local_frame(trained.lake.spark, rows, spark_schema(table))
    where = f"run_id = {literal(trained.run_id)} AND split = {literal(split)}"
    trained.lake.overwrite_where(table, frame, where)
