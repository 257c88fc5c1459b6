"""score: batch predictions by Spark, each domain's with its own theta_i."""

import logging
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config import Config
from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import overriding, shuffles_of
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.core.unreadable import readable
from mamdr_core.lake.examples.encoding import IDS
from mamdr_core.lake.examples.versions import still_there
from mamdr_core.lake.examples.windows import read_window
from mamdr_core.models.structures import declare_inputs
from mamdr_core.parallel.shipping import ship_modules
from mamdr_core.plugins import PluginImportError
from mamdr_core.serving.opening import find_served, read_vectors, send_vectors
from mamdr_core.serving.requests import (
    MALFORMED,
    encode_requests,
    read_requests,
    read_test_split,
    source_of,
)
from mamdr_core.serving.scorer import index_of, score_batches
from mamdr_core.serving.served import Served
from mamdr_core.serving.settings import ScoreSettings
from mamdr_core.training.clock import Clock
from mamdr_core.training.own_code import modules_of, plugins_of
from schemas import TABLES
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)

BATCH_ROWS = 1 << 15
"""Rows that a task hands to Python at a time."""
TASK_ROWS = 250_000
"""Rows that a task scores, about."""
_NOT_IMPORTED = re.compile(rf"{PluginImportError.__module__}.{PluginImportError.__name__}: ([^\n]+)")
_SETTINGS: dict[str, str | int] = {
    # Without, Spark passes over the hint of `spread_by_domain`; with it, what is more than TASK_ROWS rows of short ids,
    # compressed, is split.
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "8m",
    "spark.sql.execution.arrow.maxRecordsPerBatch": BATCH_ROWS,
}


def score(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Score rows with a run, and replace the batch of that name in `scores`.

    Returns:
        run_id, batch, rows, domains, unknown_users, unknown_items, unknown_domains (rows of them), specific_rows
        (scored with a theta_i), no_number (rows without a score), malformed (lines left out), mean_score,
        rows_per_second (over `write`), seconds by phase, scores_version.

    Raises:
        MamdrError: no such run or package, rows that cannot be read or lack a column, or none at all.
    """
    lake = Lake(spark, config.lake)
    clock = Clock()
    with clock.phase("open"):
        served = find_served(lake, config.score.run_id)
        batch = config.score.batch or served.run_id
        if not re.fullmatch(r"[\w.:-]+", batch):
            raise MamdrError(f"score.batch: {batch!r} must be of letters, digits, _, ., : and -")
    with _of_score(config.score):
        with clock.phase("count"):
            rows, count, malformed = _rows_to_score(spark, config.score, lake, served)
        if not count:
            raise MamdrError(f"score.input.path: {config.score.input.path or 'the test split'} holds no row to score")
        ship_modules(spark, modules_of(own for own in plugins_of(served.config) if own.key == "model.name"))
        logger.info("run %s scores %d rows as batch %s", served.run_id, count, batch)
        settings = {**shuffles_of(spark, count, TASK_ROWS), **_SETTINGS}
        with clock.phase("write"), overriding(spark, settings), progress(spark, "scores"):
            vectors = send_vectors(spark, read_vectors(lake, served, config.train))
            scored = score_rows(spread_by_domain(rows), served, vectors, config.score.deviation)
            note = {"job": "score", "run_id": served.run_id, "attempt": uuid.uuid4().hex}
            scored = scored.withColumns({"run_id": F.lit(served.run_id), "batch": F.lit(batch)})
            lake.overwrite_where("scores", scored, f"batch = '{batch}'", note)
    figures = _count(lake, batch)
    if figures["rows"] != count:
        lake.undo("scores", note)
        raise MamdrError(
            f"score.input.path: {config.score.input.path or 'examples'} changed while it was read: {count} rows were "
            f"counted, {figures['rows']} scored; run again when it is complete"
        )
    _warn_of_untrained(served, figures["unknown_domains"])
    return {
        "run_id": served.run_id,
        "batch": batch,
        **figures,
        "malformed": malformed,
        "rows_per_second": round(figures["rows"] / clock.seconds["write"], 1),
        "seconds": {name: round(value, 2) for name, value in clock.seconds.items()},
        "scores_version": lake.version("scores"),
    }


def spread_by_domain(rows: DataFrame) -> DataFrame:
    """The rows of a domain on one task, or on several where they are many, and together there.

    So a task reads the theta_i of few domains, each once. By hash, and large parts split by size between the parts of
    the input: for ranges of domains Spark would first go through all rows, their look-ups included, to find the bounds.
    """
    domain = index_of("domain")
    return rows.hint("rebalance", domain).sortWithinPartitions(domain)


def score_rows(rows: DataFrame, served: Served, vectors: str, deviation: bool = False) -> DataFrame:
    """Scores of encoded rows, see `mamdr_core.serving.scorer.score_batches`."""
    names = [name for name in TABLES["scores"].column_names if name not in ("run_id", "batch")]
    schema = spark_schema(TABLES["scores"])
    return rows.mapInArrow(
        partial(score_batches, served, vectors, deviation), T.StructType([schema[name] for name in names])
    )


def _rows_to_score(
    spark: SparkSession, settings: ScoreSettings, lake: Lake, served: Served
) -> tuple[DataFrame, int, int]:
    """Encoded rows, how many they are, and how many lines are left out since they are no whole records."""
    if not settings.input.path:
        examples = read_window(lake, served.versions["examples"])
        return read_test_split(lake, served), examples.where(F.col("split") == "test").count(), 0
    requests = read_requests(spark, settings.input, served)
    malformed, count = F.sum(F.col(MALFORMED).cast("long")), F.count("*")
    # Spark reads no malformed lines alone: some other column must be asked for too.
    found = requests.agg(count, malformed, F.count("user")).collect()[0]
    bad = int(found[1] or 0)
    if bad:
        logger.warning("score.input.path: %d lines are no whole records and are not scored", bad)
    whole = requests.where(~F.col(MALFORMED)).drop(MALFORMED)
    return encode_requests(whole, lake, served), int(found[0]) - bad, bad


def _count(lake: Lake, batch: str) -> dict[str, Any]:
    """What a batch in `scores` holds."""
    unknown = [F.sum((~F.col(f"{name}_known")).cast("long")).alias(f"unknown_{name}s") for name in IDS]
    row = (
        lake.read("scores")
        .where(F.col("batch") == batch)
        .agg(
            F.count("*").alias("rows"),
            F.count_distinct("domain").alias("domains"),
            *unknown,
            F.sum(F.col("specific").cast("long")).alias("specific_rows"),
            F.sum(F.col("score").isNull().cast("long")).alias("no_number"),
            F.mean("score").alias("mean_score"),
        )
    )
    return row.collect()[0].asDict()


def _warn_of_untrained(served: Served, rows: int) -> None:
    """A domain that training has not met has towers as they were drawn, where they do not start at zero."""
    inputs = declare_inputs(served.config.model, served.features, served.sizes)
    if rows and any(table.per_domain and table.std for table in inputs.tables):
        logger.warning(
            "%d rows are of domains that the model does not know, and %s has weights of each domain, which nothing has "
            "trained for these: train them (train.only_domains), or use a structure without",
            *(rows, served.config.model.name),
        )


@contextmanager
def _of_score(settings: ScoreSettings) -> Iterator[None]:
    """Errors about the input name the keys of `score`."""
    try:
        reading = readable(source_of(settings.input)) if settings.input.path else nullcontext()
        with still_there("a table at the version that the run was trained on"), reading, _workers_alive():
            yield
    except MamdrError as error:
        text = str(error)
        raise MamdrError(f"score.{text}" if text.startswith("input.") else text) from None


@contextmanager
def _workers_alive() -> Iterator[None]:
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        if missing := _NOT_IMPORTED.search(str(error)):
            raise MamdrError(f"on an executor, {missing.group(1)}") from None
        if "Python worker exited unexpectedly" not in str(error):
            raise
        raise MamdrError(
            "a Python worker of Spark died, most likely for want of memory: give executors more of it beside the JVM's "
            "(spark.executor.memoryOverhead), or fewer cores"
        ) from None
