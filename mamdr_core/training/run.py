"""train_mamdr on the driver: pin a version, place domains, launch ranks, seal the package, record the run."""

import logging
import time
from functools import partial
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from mamdr_core.config import Config
from mamdr_core.parallel.launch import run_ranks
from mamdr_core.parallel.placement import place_domains
from mamdr_core.training.preparing import check_names, prepare_examples
from mamdr_core.training.rank import RankTask, train_rank
from mamdr_core.training.runs import Run, new_run
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
    check_names(config)
    lake, pinned, seconds = prepare_examples(spark, config)
    run = new_run(lake, config, pinned)
    run.begin(spark)
    try:
        figures = train_on_ranks(spark, run, seconds)
    except BaseException as error:
        run.fail(spark, error)
        raise
    log_summary(lake, run.id, pinned.versions["examples"])
    return figures


def train_on_ranks(spark: SparkSession, run: Run, seconds: dict[str, float]) -> dict[str, Any]:
    """Train a run on its `train.ranks` ranks and record its end.

    Args:
        spark: the session.
        run: what to train.
        seconds: by phase, so far.

    Returns:
        The run's figures, see `train_mamdr`.
    """
    pinned, ranks = run.pinned, run.config.train.ranks
    task = task_of(run)
    owning = len(np.unique(task.owner[pinned.counts["train"] > 0]))
    logger.info(
        "run %s: %s of %s on %d domains, %d training rows, examples version %d, %d ranks",
        run.id, run.config.train.method, run.config.model.name, int((pinned.counts["train"] > 0).sum()),
        int(pinned.counts["train"].sum()), pinned.versions["examples"], ranks,
    )  # fmt: skip
    if owning < ranks:
        logger.info(
            "%d of %d ranks own no domain and only take part in averaging: lower train.ranks", ranks - owning, ranks
        )
    started = time.perf_counter()
    results = run_ranks(spark, partial(train_rank, task), ranks, run.config.train.start_timeout)
    return run.finish(spark, results, seconds | {"ranks": time.perf_counter() - started})


def task_of(run: Run) -> RankTask:
    """What a run's ranks are told."""
    owner = place_domains(run.pinned.counts["train"], run.config.train.ranks, run.pinned.positions())
    return RankTask(run.config, run.pinned, owner, str(run.scratch))
