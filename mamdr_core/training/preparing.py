"""Prepares a run: checks names, and pins one version of the examples, which is built first if there is none."""

import logging
import time

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.datasets.synthetic import generate_logs
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.examples.versions import versions_of
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.stats import domain_stats
from mamdr_core.learning.methods import METHODS, find_method
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import is_remote
from mamdr_core.shards.pinned import PinnedExamples, pin_examples
from mamdr_core.training.own_code import check_own_names
from mamdr_core.training.tracking.tracking import check_trackers

logger = logging.getLogger(__name__)


def check_names(config: Config) -> None:
    """Check the names of the method and the model, and settings that exclude each other.

    Raises:
        MamdrError: no method or model has the name (the known ones are listed); a plugin cannot be imported, is of
            another kind, or has other options; or the method does not support a setting.
    """
    check_own_names(config)
    method = find_method(config.train.method)
    if config.train.refit_last_layer and method.specific:
        raise MamdrError(
            f"train.refit_last_layer is for methods without theta_i, and train.method is {config.train.method}"
        )
    schedule = config.train.lr_schedule
    if schedule.rates == "outer" and not method.has_outer and (schedule.warmup_rounds or schedule.decay != "constant"):
        raise MamdrError(
            f"train.lr_schedule.rates is outer, and train.method {config.train.method} has no outer update: use inner"
        )
    if config.train.days and not config.examples.split.moves:
        raise MamdrError(
            "train.days is for examples whose val and test days are the newest: set examples.split.kind to time, and "
            "examples.split.val_days and test_days"
        )
    if config.train.only_domains and not (method.specific or method.mixed):
        able = ", ".join(name for name, known in METHODS.items() if known.specific or known.mixed)
        raise MamdrError(
            f"train.only_domains trains only theta_i, and train.method {config.train.method} has none: choose {able}"
        )


def prepare_examples(
    spark: SparkSession, config: Config, builds: bool = True
) -> tuple[Lake, PinnedExamples, dict[str, float]]:
    """The newest examples, or those of `train.examples_version`; if the lake has none, they are built first.

    Args:
        builds: whether examples may be built; otherwise a lake without examples is an error.

    Returns:
        The lake, the pinned version, and seconds by phase.

    Raises:
        MamdrError: no examples and no raw log, no such version, no row to train on, a lake that cannot hold packages,
            or a tracker that is not installed.
    """
    check_trackers(config.tracking)
    seconds: dict[str, float] = {}
    lake = Lake(spark, config.lake)
    is_remote(lake.root)  # or on a disk: no other store can hold packages
    wanted = config.train.examples_version
    if wanted is None and not _is_filled(lake, "examples"):
        if not builds:
            raise MamdrError(
                f"lake {lake.root} has no examples yet, and a dry run builds none: run build_examples first"
            )
        started = time.perf_counter()
        _build(spark, config)
        seconds["prepare"] = time.perf_counter() - started
    started = time.perf_counter()
    versions = None if wanted is None else versions_of(lake, config.features, wanted)
    pinned = pin_examples(spark, config.lake, config.features, versions, config.train.days)
    if not pinned.counts["train"].sum():
        raise MamdrError(f"examples version {pinned.versions['examples']} has no row to train on")
    seconds["pin"] = time.perf_counter() - started
    warn_of_two_corrections(config.train.negative_rate, pinned.has_weights)
    return lake, pinned, seconds


def warn_of_two_corrections(negative_rate: float, has_weights: bool) -> None:
    """Warn if sample weights and `train.negative_rate` may both compensate for negatives that the log lacks."""
    if has_weights and negative_rate < 1:
        logger.warning(
            "the rows have sample weights and train.negative_rate is %g: if weights compensate for negatives that the "
            "log lacks, predictions are corrected twice: set train.negative_rate to 1, or unset input.columns.weight",
            negative_rate,
        )


def _is_filled(lake: Lake, table: str) -> bool:
    """Whether a table has files; a first write that was undone leaves it empty."""
    return lake.log(table).size() > 0


def _build(spark: SparkSession, config: Config) -> None:
    """Build examples from the raw log in this session; a synthetic log is generated first if `synthetic` is set."""
    lake = Lake(spark, config.lake)
    logger.info("lake %s has no examples yet: building them", lake.root)
    if not _is_filled(lake, "clicks"):
        if config.synthetic is not None:
            generate_logs(spark, config)
        ingest_clicks(spark, config)
    build_examples(spark, config)
    domain_stats(spark, config)
