"""train_mamdr on the driver: pin a version, place domains, launch ranks, seal the package, record the run."""

import contextlib
import json
import logging
import shutil
import time
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from mamdr_core.config import Config, dump_config
from mamdr_core.datasets.synthetic import generate_logs
from mamdr_core.errors import MamdrError
from mamdr_core.lake.examples import build_examples
from mamdr_core.lake.ingest import ingest_clicks
from mamdr_core.lake.stats import domain_stats
from mamdr_core.lake.tables import Lake
from mamdr_core.learning.methods import find_method
from mamdr_core.models import MODELS
from mamdr_core.parallel.launch import run_ranks
from mamdr_core.parallel.placement import place_domains
from mamdr_core.shards.pinned import PinnedExamples, pin_examples
from mamdr_core.training.package import seal_package
from mamdr_core.training.rank import RankResult, RankTask, train_rank
from mamdr_core.training.records import code_version, record_metrics, record_run
from mamdr_core.training.summary import log_summary

logger = logging.getLogger(__name__)


def train_mamdr(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Train on the newest examples; where the lake has none yet, first build them from the raw log.

    Returns:
        run_id, method, model, ranks, device, engine, precision, epochs, rounds, best_round, dr_passes, domains,
        domains_measured, train_rows, val_auc, test_auc, weighted_test_auc, samples_per_second (compiling included),
        data_wait_seconds (of inner loops, on the rank that waits most; null with the eager engine), skipped_steps,
        specific_bytes (theta_i's dense parameters, the best kept aside included), specific_row_bytes (its embedding
        rows with their ids), read_bytes (by all ranks, compressed), seconds by phase, examples_version, package.

    Raises:
        MamdrError: no examples and no raw log, an unknown method or model, too few slots.
        RankError: a rank failed; the run is recorded as failed.
    """
    _check_names(config)
    seconds: dict[str, float] = {}
    lake = Lake(spark, config.lake.root)
    if "://" in lake.root:
        raise MamdrError(f"lake.root {lake.root}: training needs a local or mounted folder for its packages")
    if not lake.exists("examples"):
        started = time.perf_counter()
        _prepare(spark, config)
        seconds["prepare"] = time.perf_counter() - started
    started = time.perf_counter()
    pinned = pin_examples(spark, config.lake.root, config.features)
    if not pinned.counts["train"].sum():
        raise MamdrError(f"examples version {pinned.versions['examples']} has no row to train on")
    seconds["pin"] = time.perf_counter() - started
    run = _new_run(config, pinned)
    record_run(spark, lake, run)
    try:
        figures = _train(spark, config, lake, pinned, run, seconds)
    except BaseException as error:
        ended = {"status": "failed", "error": str(error)[:10_000], "finished_at": datetime.now(UTC)}
        with contextlib.suppress(Exception):  # the cause of the failure matters more than its record
            record_run(spark, lake, {**run, **ended})
        shutil.rmtree(_scratch(lake, run["run_id"]), ignore_errors=True)
        raise
    log_summary(lake, run["run_id"], pinned.versions["examples"])
    return figures


def _train(
    spark: SparkSession,
    config: Config,
    lake: Lake,
    pinned: PinnedExamples,
    run: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, Any]:
    run_id, ranks = run["run_id"], config.train.ranks
    owner = place_domains(pinned.counts["train"], ranks, pinned.positions())
    owning = len(np.unique(owner[pinned.counts["train"] > 0]))
    logger.info(
        "run %s: %s of %s on %d domains, %d training rows, examples version %d, %d ranks",
        run_id, config.train.method, config.model.name, int((pinned.counts["train"] > 0).sum()),
        int(pinned.counts["train"].sum()), pinned.versions["examples"], ranks,
    )  # fmt: skip
    if owning < ranks:
        logger.info(
            "%d of %d ranks own no domain and only take part in averaging: lower train.ranks", ranks - owning, ranks
        )
    scratch = _scratch(lake, run_id)
    started = time.perf_counter()
    task = RankTask(config, pinned, owner, str(scratch))
    results = run_ranks(spark, partial(train_rank, task), ranks, config.train.start_timeout)
    seconds["ranks"] = time.perf_counter() - started
    missing = [name for ended in results for name in ended.saved if not (scratch / name).is_file()]
    if missing:
        raise MamdrError(
            f"ranks wrote {', '.join(missing)} where the driver cannot see: lake.root must be a shared folder"
        )
    result: RankResult = results[0]
    seconds |= result.seconds
    figures = _figures(config, pinned, run, result, seconds)
    package = Path(lake.path_of("packages", run_id))
    texts = {
        "config.yaml": run["config"],
        "pinned.json": json.dumps(_pinned_facts(pinned), indent=1),
        "metrics.json": json.dumps(figures, indent=1),
    }
    seal_package(str(scratch), str(package), texts)
    figures["package"] = str(package)
    record_metrics(spark, lake, run_id, pinned.domain_ids, result.metrics)
    recorded = {name: value for name, value in figures.items() if name != "examples_version"}
    record_run(spark, lake, {**run, **recorded, "status": "ok", "finished_at": datetime.now(UTC)})
    return figures


def _figures(
    config: Config, pinned: PinnedExamples, run: dict[str, Any], result: RankResult, seconds: dict[str, float]
) -> dict[str, Any]:
    test = result.metrics["test"]
    return {
        "run_id": run["run_id"],
        "method": config.train.method,
        "model": config.model.name,
        "ranks": config.train.ranks,
        "device": result.device,
        "engine": result.engine,
        "precision": config.train.precision if result.engine == "fast" else "fp32",
        "epochs": result.epochs,
        "rounds": result.rounds,
        "best_round": result.best_round,
        "dr_passes": result.dr_passes,
        "domains": int((pinned.counts["train"] > 0).sum()),
        "domains_measured": int((~test.auc.isnan()).sum()),
        "train_rows": int(pinned.counts["train"].sum()),
        "val_auc": _known(result.metrics["val"].mean_auc()),
        "test_auc": _known(test.mean_auc()),
        "weighted_test_auc": _known(test.weighted_auc()),
        "oracle_test_auc": _known(_mean_oracle(result)),
        "samples_per_second": round(result.rows_descended / max(result.inner_seconds, 1e-9), 1),
        "data_wait_seconds": None if result.data_wait_seconds is None else round(result.data_wait_seconds, 3),
        "skipped_steps": result.skipped_steps,
        "specific_bytes": result.specific_bytes,
        "specific_row_bytes": result.specific_row_bytes,
        "read_bytes": result.read_bytes,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "examples_version": pinned.versions["examples"],
    }


def _mean_oracle(result: RankResult) -> float:
    oracle = result.metrics["test"].oracle_auc
    return float(oracle[~oracle.isnan()].mean())


def _known(value: float) -> float | None:
    """JSON and SQL have no NaN."""
    return None if value != value else value


def _new_run(config: Config, pinned: PinnedExamples) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "run_id": f"{now:%Y%m%dT%H%M%S}-{config.train.method}-{uuid.uuid4().hex[:6]}",
        "status": "running",
        "method": config.train.method,
        "model": config.model.name,
        "code_version": code_version(),
        "config": dump_config(config),
        "input_versions": pinned.versions,
        "ds": config.examples.until,
        "ranks": config.train.ranks,
        "started_at": now,
    }


def _pinned_facts(pinned: PinnedExamples) -> dict[str, Any]:
    facts = asdict(pinned)
    return {name: facts[name] for name in ("versions", "sizes", "numeric")}


def _scratch(lake: Lake, run_id: str) -> Path:
    return Path(lake.path_of("packages", f".{run_id}.part"))


def _prepare(spark: SparkSession, config: Config) -> None:
    """From the raw log to examples, in this session; synthetic logs are made where `synthetic` declares them."""
    lake = Lake(spark, config.lake.root)
    logger.info("lake %s has no examples yet: building them", lake.root)
    if not lake.exists("clicks"):
        if config.synthetic is not None:
            generate_logs(spark, config)
        ingest_clicks(spark, config)
    build_examples(spark, config)
    domain_stats(spark, config)


def _check_names(config: Config) -> None:
    try:
        find_method(config.train.method)
    except ValueError as error:
        raise MamdrError(str(error)) from None
    if config.model.name not in MODELS:
        raise MamdrError(f"model.name is {config.model.name!r}; known: {', '.join(sorted(MODELS))}")
