"""Unfinished runs: finding the one that a job is to resume."""

import logging
from datetime import UTC, datetime

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config import Config, parse_config
from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.tables import Lake
from mamdr_core.object_store import Place, place_of
from mamdr_core.shards.pinned import pin_examples
from mamdr_core.training.claims import is_trained_elsewhere
from mamdr_core.training.differences import differences
from mamdr_core.training.own_code import sources_of
from mamdr_core.training.runs import Run, deciding, make_run
from mamdr_core.yaml_values import parse_yaml

logger = logging.getLogger(__name__)

NEWEST = "newest"
"""`train.resume`: whichever unfinished run of the same day computes the same."""


def find_unfinished(spark: SparkSession, config: Config) -> Run | None:
    """The run that `train.resume` means, on the examples that it began with; None: there is none, so start anew.

    Raises:
        MamdrError: the run that is named does not exist, has ended well or computes something else; or the run is
            being trained.
    """
    lake, wanted = Lake(spark, config.lake), config.train.resume
    if wanted != NEWEST:
        return _resumed(spark, lake, config, _find_named(lake, config, wanted))
    for row in _unfinished(lake) if lake.exists("training_runs") else ():
        folder = place_of(lake.path_of("checkpoints", row["run_id"]))
        is_of_day = row["ds"] == config.examples.until or bool(config.train.only_domains)
        if is_of_day and folder.is_dir() and not _differing(config, row):
            _check_that_it_is_free(folder, row["run_id"])
            return _resumed(spark, lake, config, row)
    logger.info("no unfinished run of %s computes the same: a new one begins", lake.root)
    return None


def _unfinished(lake: Lake) -> list[Row]:
    runs = lake.read("training_runs").where((F.col("status") != "ok") & F.col("experiment").isNull())
    return runs.orderBy(F.desc("started_at")).limit(100).collect()


def _find_named(lake: Lake, config: Config, run_id: str) -> Row:
    row = lake.read("training_runs").where(F.col("run_id") == run_id).first()
    if row is None:
        raise MamdrError(f"train.resume: training_runs of {lake.root} has no run {run_id}")
    if row["status"] == "ok":
        raise MamdrError(f"train.resume: run {run_id} has ended well, its package is {row['package']}")
    differing = _differing(config, row)
    if differing:
        raise MamdrError(f"train.resume: run {run_id} computes something else: {'; '.join(differing[:3])}")
    _check_that_it_is_free(place_of(lake.path_of("checkpoints", run_id)), run_id)
    return row


def _check_that_it_is_free(folder: Place, run_id: str) -> None:
    if is_trained_elsewhere(folder):
        raise MamdrError(
            f"train.resume: another process of this machine trains run {run_id}, or ends it after the round that it is "
            "in: try again later"
        )


def _resumed(spark: SparkSession, lake: Lake, config: Config, row: Row) -> Run:
    logger.info("resumes run %s (%s)", row["run_id"], row["status"])
    pinned = pin_examples(spark, config.lake, config.features, row["input_versions"], config.train.days)
    begins = {"ranks": config.train.ranks, "error": None, "started_at": datetime.now(UTC), "finished_at": None}
    known = {**row.asDict(), **begins}
    return make_run(lake, config, pinned, known)


def _differing(config: Config, row: Row) -> list[str]:
    """Settings that decide what is computed and differ from a run's, one line each; the number of ranks may."""
    try:
        theirs = deciding(parse_config(parse_yaml(row["config"], "config")))
    except MamdrError as error:
        return [f"its configuration is of another version of this code ({error})"]
    ours = deciding(config)
    ours["plugins"], theirs["plugins"] = sources_of(config), row.asDict().get("plugins") or {}
    theirs["train"]["ranks"] = ours["train"]["ranks"]
    if config.train.examples_version is not None:
        ours["train"]["examples_version"] = config.train.examples_version
        theirs["train"]["examples_version"] = row["input_versions"].get("examples")
    return differences(ours, theirs)
