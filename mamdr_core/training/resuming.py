"""Finds the unfinished run that a job resumes."""

import logging
from datetime import UTC, datetime

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.differences import differences
from mamdr_core.config.job_config import Config, parse_config
from mamdr_core.config.yaml_values import parse_yaml
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import AnyPath, as_path
from mamdr_core.shards.pinned import pin_examples
from mamdr_core.training.checkpoint.claims import is_trained_elsewhere
from mamdr_core.training.own_code import sources_of
from mamdr_core.training.runs import Run, fingerprint_settings, make_run

logger = logging.getLogger(__name__)

NEWEST = "newest"
"""Value of `train.resume` for the newest unfinished run of the same day with the same fingerprint."""


def find_unfinished(spark: SparkSession, config: Config) -> Run | None:
    """The run of `train.resume`, with the examples on which it started; None: there is none, so start a new run.

    Raises:
        MamdrError: the named run does not exist, has succeeded or has different settings; or another process trains it.
    """
    lake, wanted = Lake(spark, config.lake), config.train.resume
    if wanted != NEWEST:
        return _resumed(lake, config, _find_named(lake, config, wanted))
    for row in _unfinished(lake) if lake.exists("training_runs") else ():
        folder = as_path(lake.path_of("checkpoints", row["run_id"]))
        is_of_day = row["ds"] == config.examples.until or bool(config.train.only_domains)
        if is_of_day and folder.is_dir() and not _differing(config, row):
            _check_not_running(folder, row["run_id"])
            return _resumed(lake, config, row)
    logger.info("%s has no unfinished run with the same settings: starting a new one", lake.root)
    return None


def _unfinished(lake: Lake) -> list[Row]:
    runs = lake.read("training_runs").where((F.col("status") != "ok") & F.col("experiment").isNull())
    return runs.orderBy(F.desc("started_at")).limit(100).collect()


def _find_named(lake: Lake, config: Config, run_id: str) -> Row:
    row = lake.read("training_runs").where(F.col("run_id") == run_id).first()
    if row is None:
        raise MamdrError(f"train.resume: training_runs of {lake.root} has no run {run_id}")
    if row["status"] == "ok":
        raise MamdrError(f"train.resume: run {run_id} has already succeeded, its package is {row['package']}")
    differing = _differing(config, row)
    if differing:
        raise MamdrError(f"train.resume: run {run_id} has different settings: {'; '.join(differing[:3])}")
    _check_not_running(as_path(lake.path_of("checkpoints", run_id)), run_id)
    return row


def _check_not_running(folder: AnyPath, run_id: str) -> None:
    if is_trained_elsewhere(folder):
        raise MamdrError(
            f"train.resume: another process of this machine trains run {run_id}, or stops it after the current round; "
            "try again later"
        )


def _resumed(lake: Lake, config: Config, row: Row) -> Run:
    logger.info("resumes run %s (%s)", row["run_id"], row["status"])
    pinned = pin_examples(lake.spark, config.lake, config.features, row["input_versions"], config.train.days)
    begins = {"ranks": config.train.ranks, "error": None, "started_at": datetime.now(UTC), "finished_at": None}
    known = {**row.asDict(), **begins}
    known["attempts"] = known.get("attempts") or 1  # a row from before they were counted
    return make_run(lake, config, pinned, known)


def _differing(config: Config, row: Row) -> list[str]:
    """Settings of the fingerprint that differ from those of a run, one line each; the number of ranks may differ."""
    try:
        theirs = fingerprint_settings(parse_config(parse_yaml(row["config"], "config")))
    except MamdrError as error:
        return [f"its configuration is from another version of this code ({error})"]
    ours = fingerprint_settings(config)
    ours["plugins"], theirs["plugins"] = sources_of(config), row.asDict().get("plugins") or {}
    theirs["train"]["ranks"] = ours["train"]["ranks"]
    if config.train.examples_version is not None:
        ours["train"]["examples_version"] = config.train.examples_version
        theirs["train"]["examples_version"] = row["input_versions"].get("examples")
    return differences(ours, theirs)
