"""train_mamdr on the driver: pins examples, places domains, launches and restarts ranks, and records the run."""

import contextlib
import logging
import time
from functools import partial
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config, parse_config, plain_config
from mamdr_core.config.secrets import without_secrets
from mamdr_core.lake.core.tables import Lake
from mamdr_core.parallel.launch import RankError, run_ranks
from mamdr_core.parallel.placement import place_domains
from mamdr_core.parallel.shipping import ship_modules
from mamdr_core.runtime.errors import StoppedError
from mamdr_core.runtime.stop_request import StopRequest, on_sigterm
from mamdr_core.training.building import load_of
from mamdr_core.training.checkpoint.checkpoints import STOP, CheckpointLocation, find_checkpoint
from mamdr_core.training.files.folders import remove
from mamdr_core.training.own_code import modules_of, plugins_of
from mamdr_core.training.parents import resolve_parent
from mamdr_core.training.preparing import check_names, prepare_examples
from mamdr_core.training.resuming import find_unfinished
from mamdr_core.training.runs import Run, new_run
from mamdr_core.training.summary import log_summary
from mamdr_core.training.worker import RankResult, RankTask, train_rank

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 60
"""Maximum number of seconds before a restart."""


def train_mamdr(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Train on the newest examples; if the lake has none yet, they are first built from the raw log.

    With `train.resume`, an unfinished run resumes from its newest checkpoint, on the examples on which it started. With
    `train.warm_start`, a new run starts from the parameters of another one (docs/warm_start.md).

    Returns:
        run_id, method, model, ranks, device, engine, precision, epochs, rounds, best_round, dr_passes, parent_run_id,
        domains (that learned), domains_measured, train_rows (of these), val_auc, test_auc, weighted_test_auc,
        test_gauc, test_ndcg and test_hit_rate (by cutoff), test_pcoc, test_calibration_error (docs/metrics.md),
        samples_per_second (including compilation), data_wait_seconds (of inner loops, on the rank that waits longest;
        null with the eager engine), skipped_steps, specific_kind (none; dense: theta_i of DR; mixed: a mixed model),
        specific_bytes (dense parameters of theta_i with the best copy, or the mixed model), specific_row_bytes
        (embedding rows of theta_i with their ids), variances (learned by a mixed model, by kind of effect and entry of
        w_i), read_bytes (by all ranks, compressed), seconds by phase, examples_version, attempts, package, plugins
        (SHA-256 of their source by name; null: none), profile (files of `train.profile`; null: none); for a calibrated
        run also uncalibrated (pcoc and calibration_error on the test split without calibration).

    Raises:
        MamdrError: no examples and no raw log, an unknown method or model, a plugin that cannot be imported on the
            driver or a rank or whose forward returns another shape, too few slots, no run to resume, or no compatible
            parent.
        StoppedError: SIGTERM; the run is recorded as stopped, and can be resumed.
        RankError: a rank failed more than `train.restarts` times; the run is recorded as failed, and can be resumed.
    """
    check_names(config)
    config = resolve_parent(spark, config)
    unfinished = find_unfinished(spark, config) if config.train.resume else None
    if unfinished:
        run, seconds = unfinished, dict[str, float]()
    else:
        lake, pinned, seconds = prepare_examples(spark, config)
        run = new_run(lake, config, pinned)
    run.record_start()
    try:
        figures = train_on_ranks(run, seconds)
    except BaseException as error:
        run.record_failure(error)
        raise
    log_summary(Lake(spark, config.lake), run.id, run.pinned.versions["examples"])
    return figures


def train_on_ranks(run: Run, seconds: dict[str, float]) -> dict[str, Any]:
    """Train a run on `train.ranks` ranks, restart it from its newest checkpoint after failures, and record its end.

    Returns:
        The figures of the run, see `train_mamdr`.
    """
    train, rows = run.config.train, run.domains.rows(run.pinned)
    ship_modules(run.lake.spark, modules_of(plugins_of(run.config)))
    owning = len(np.unique(task_of(run).owner[rows > 0]))
    logger.info(
        "run %s: %s of %s on %d domains, %d training rows, examples version %d, %d ranks, starts %s",
        run.id, train.method, run.config.model.name, int((rows > 0).sum()), int(rows.sum()),
        run.pinned.versions["examples"], train.ranks, f"from run {run.parent.run_id}" if run.parent else "cold",
    )  # fmt: skip
    if owning < train.ranks:
        logger.info(
            "%d of %d ranks own no domain with training rows: lower train.ranks",
            train.ranks - owning, train.ranks,
        )  # fmt: skip
    started = time.perf_counter()
    stop = run.checkpoints / STOP
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    stop.unlink(missing_ok=True)
    request = StopRequest(stop)

    def ask() -> None:
        """Request all ranks to save a checkpoint and stop."""
        request.set()
        with contextlib.suppress(OSError):  # an unreachable store or a full disk
            stop.touch()

    with on_sigterm(ask):
        results = _attempts(run, request)
    figures = run.finish(results, seconds | {"ranks": time.perf_counter() - started})
    remove(run.checkpoints)
    return figures


def _attempts(run: Run, request: StopRequest) -> list[RankResult]:
    """Run the ranks, and restart them after failures unless a stop was requested."""
    train, failures = run.config.train, 0
    while True:
        remove(run.scratch)  # parts of the package that a failed attempt may have written
        checkpoints = find_checkpoint(run.checkpoints, train.scratch)
        if request.is_set():
            where = "" if checkpoints.newest is None else f": --resume continues from checkpoint {checkpoints.newest}"
            raise StoppedError(f"stopped by {request.reason} while no rank was running{where}")
        task = partial(train_rank, task_of(run, checkpoints))
        try:
            return run_ranks(
                run.lake.spark, task, train.ranks, train.start_timeout, train.launcher, train.stall_limit, train.device
            )
        except RankError as error:
            is_last = request.is_set() or failures == train.restarts
            run.record_loss(error, is_last)
            if request.is_set():
                continue
            if is_last:
                raise
            pause = min(2.0**failures, LONGEST_PAUSE)
            failures += 1
            logger.warning("restart %d of %d in %.0f s: %s", failures, train.restarts, pause, error)
            until = time.monotonic() + pause
            while not request.is_set() and time.monotonic() < until:
                time.sleep(0.1)


def task_of(run: Run, checkpoints: CheckpointLocation | None = None) -> RankTask:
    """The task that the driver sends to the ranks of a run."""
    read = np.where(run.domains.reads, run.pinned.counts["train"], 0)
    owner = place_domains(load_of(run.config.train, read), run.config.train.ranks, run.pinned.positions())
    config = parse_config(without_secrets(plain_config(run.config)))  # ranks do not read the raw log
    parent = run.parent.package if run.parent else ""
    sources = run.row.get("plugins") or {}
    profile = run.lake.path_of("reports", run.id) if run.config.train.profile else ""
    return RankTask(config, run.pinned, owner, str(run.scratch), checkpoints, parent, sources, profile)
