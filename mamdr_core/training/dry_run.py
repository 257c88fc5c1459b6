"""train_mamdr --dry-run: checks what a run needs and takes one step on a few rows, without writing anything."""

import logging
import time
from functools import partial
from typing import Any

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.learning.methods import find_method
from mamdr_core.models.tables import Table
from mamdr_core.parallel.launch import run_ranks
from mamdr_core.parallel.shipping import ship_modules
from mamdr_core.training.driver import task_of
from mamdr_core.training.dry_worker import dry_run_rank
from mamdr_core.training.memory_check import GB
from mamdr_core.training.own_code import modules_of, plugins_of
from mamdr_core.training.parents import resolve_parent
from mamdr_core.training.preparing import check_names, prepare_examples
from mamdr_core.training.runs import new_run
from schemas import SPLITS

logger = logging.getLogger(__name__)


def dry_run(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Check what a run of this configuration needs, in the same way as the run itself, and take one step.

    This checks the config, examples with vocabularies and features, the parent, slots and ranks (which are started),
    memory by its formula, and one step of the real model and method, in which each rank visits one of its domains.
    Nothing is written to the lake or to a run's folder; with `lake.catalog`, existing tables may be registered. An
    unfinished run is not resumed.

    Returns:
        status ("dry_run"), method, model, ranks, device, engine, parent_run_id, examples_version, rows (by split),
        domains (that would learn), domains_read and rows_read (for the step), memory (bytes by part, with `total`, that
        the rank with the least spare memory would need), memory_available (to that rank), tables (by name: rows, width,
        bytes, trained), parameters (dense, of the trained tables, and of the dense parts of all theta_i), loss and
        loss_after (of the step's rows, before and after it), seconds by phase.

    Raises:
        MamdrError: an error that a run would raise before its first round, or the lake has no examples yet.
    """
    check_names(config)
    config = resolve_parent(spark, config)
    lake, pinned, seconds = prepare_examples(spark, config, builds=False)
    run = new_run(lake, config, pinned)
    ship_modules(spark, modules_of(plugins_of(config)))
    train, learned = config.train, run.domains.rows(pinned)
    started = time.perf_counter()
    tried = run_ranks(
        spark, partial(dry_run_rank, task_of(run)), train.ranks, train.start_timeout, train.launcher, train.stall_limit,
        train.device,
    )  # fmt: skip
    seconds |= {"ranks": time.perf_counter() - started, **tried[0].seconds}
    neediest = max(tried, key=lambda each: each.memory.total - each.available)
    first, rows = tried[0], sum(each.losses[2] for each in tried)
    before, after = (sum(each.losses[at] * each.losses[2] for each in tried) / max(1, rows) for at in (0, 1))
    logger.info(
        "dry run: a step of %d rows on %d ranks moved the loss from %.4f to %.4f; a rank of the run needs %.3g GB of "
        "%.3g GB available; nothing was written", rows, train.ranks, before, after, neediest.memory.total / GB,
        neediest.available / GB,
    )  # fmt: skip
    if neediest.memory.total > neediest.available:
        logger.warning(
            "by the formula, the rank needs more memory than is available to it: the run may be refused or killed "
            "(docs/memory.md)"
        )
    return {
        "status": "dry_run",
        "method": train.method,
        "model": config.model.name,
        "ranks": train.ranks,
        "device": first.device,
        "engine": first.engine,
        "parent_run_id": run.row["parent_run_id"],
        "examples_version": pinned.versions["examples"],
        "rows": {split: int(pinned.counts[split].sum()) for split in SPLITS},
        "domains": int((learned > 0).sum()),
        "domains_read": sum(each.domains for each in tried),
        "rows_read": sum(each.rows for each in tried),
        "memory": neediest.memory.parts | {"total": neediest.memory.total},
        "memory_available": neediest.available,
        "tables": {table.name: _described(table) for table in first.tables},
        "parameters": {
            "dense": first.dense,
            "tables": sum(table.rows * table.width for table in first.tables if table.trainable and not table.measured),
            "specific": first.dense * int((learned > 0).sum()) if find_method(train.method).specific else 0,
        },
        "loss": before,
        "loss_after": after,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _described(table: Table) -> dict[str, Any]:
    size = 4 * table.rows * table.width
    return {"rows": table.rows, "width": table.width, "bytes": size, "trained": table.trainable and not table.measured}
