"""score: batch predictions by Spark, each domain's with its own theta_i."""

import logging
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config import Config
from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
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
from mamdr_core.serving.recommending import plan_top_k, recommend
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

BATCH_ROWS, LEAST_ROWS = 1 << 15, 1 << 10
"""Rows that a task hands to Python at a time, at most and at least."""
BATCH_IDS = 1 << 24
"""Ids and weights of bags and sequences in these rows, at most (64 MiB): with more than 512 a row, rows are fewer."""
TASK_ROWS = 250_000
"""Rows that a task scores, about."""
_NOT_IMPORTED = re.compile(rf"{PluginImportError.__module__}.{PluginImportError.__name__}: ([^\n]+)")
_SETTINGS: dict[str, str | int] = {
    # Without, Spark passes over the hint of `spread_by_domain`; with it, what is more than TASK_ROWS rows of short ids,
    # compressed, is split.
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "8m",
}


def score(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Score rows with a run, and replace the batch of that name in `scores`.

    Returns:
        run_id, batch, rows, domains, unknown_users, unknown_items, unknown_domains (rows of them), specific_rows
        (scored with a theta_i), no_number (rows without a score), malformed (lines left out), mean_score,
        rows_per_second (over `write`), seconds by phase, scores_version. With `score.top_k` also users,
        users_of_unknown_domains and users_without_candidates (rows of users that get no items), candidates (without
        duplicates), candidates_left_out, pairs (scored) and pairs_per_second (over `write`).

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
            find = _top_k if config.score.top_k else _rows_to_score
            work = find(spark, config.score, lake, served)
        if not work.rows:
            raise MamdrError(f"score.input.path: {config.score.input.path or 'the test split'} holds no row to score")
        ship_modules(spark, modules_of(own for own in plugins_of(served.config) if own.key == "model.name"))
        logger.info("run %s scores %d rows as batch %s", served.run_id, work.pairs, batch)
        rows = {"spark.sql.execution.arrow.maxRecordsPerBatch": batch_rows(served.features)}
        settings = {**shuffles_of(spark, work.rows, TASK_ROWS), **_SETTINGS, **rows}
        with clock.phase("write"), overriding(spark, settings), progress(spark, "scores"):
            vectors = send_vectors(spark, read_vectors(lake, served, config.train))
            scored = work.score(vectors)
            note = {"job": "score", "run_id": served.run_id, "attempt": uuid.uuid4().hex}
            scored = scored.withColumns({"run_id": F.lit(served.run_id), "batch": F.lit(batch)})
            lake.overwrite_where("scores", scored, f"batch = '{batch}'", note)
    figures = _count(lake, batch)
    if figures["rows"] != work.rows:
        lake.undo("scores", note)
        raise MamdrError(
            f"score.input.path: {config.score.input.path or 'examples'} changed while it was read: {work.rows} rows "
            f"were counted, {figures['rows']} scored; run again when it is complete"
        )
    _warn_of_untrained(served, figures["unknown_domains"])
    return {
        "run_id": served.run_id,
        "batch": batch,
        **figures,
        **work.figures,
        "rows_per_second": round(figures["rows"] / clock.seconds["write"], 1),
        **({"pairs_per_second": round(work.pairs / clock.seconds["write"], 1)} if config.score.top_k else {}),
        "seconds": {name: round(value, 2) for name, value in clock.seconds.items()},
        "scores_version": lake.version("scores"),
    }


def batch_rows(features: Iterable[Feature]) -> int:
    """Rows that a task hands to Python at a time, where bags and sequences have these lengths."""
    several = [feature for feature in features if feature.has_several_ids]
    ids = sum(feature.length * (2 if feature.weights else 1) for feature in several)
    return max(LEAST_ROWS, min(BATCH_ROWS, BATCH_IDS // max(1, ids)))


def spread_by_domain(rows: DataFrame) -> DataFrame:
    """The rows of a domain on one task, or on several where they are many, and together there.

    So a task reads the theta_i of few domains, each once. By hash, and large parts split by size between the parts of
    the input: for ranges of domains Spark would first go through all rows, their look-ups included, to find the bounds.
    """
    domain = index_of("domain")
    return rows.hint("rebalance", domain).sortWithinPartitions(domain)


def score_rows(rows: DataFrame, served: Served, vectors: str, deviation: bool = False) -> DataFrame:
    """Scores of encoded rows, see `mamdr_core.serving.scorer.score_batches`."""
    return rows.mapInArrow(partial(score_batches, served, vectors, deviation), _scored_schema())


def _scored_schema() -> T.StructType:
    """What tasks return."""
    names = [name for name in TABLES["scores"].column_names if name not in ("run_id", "batch")]
    schema = spark_schema(TABLES["scores"])
    return T.StructType([schema[name] for name in names])


@dataclass(frozen=True)
class _Work:
    """What is to be scored.

    Attributes:
        rows: that will be written.
        pairs: of a user and an item that are scored for them.
        score: the rows, from the file of the fixed vectors.
        figures: what the job reports of it.
    """

    rows: int
    pairs: int
    score: Callable[[str], DataFrame]
    figures: dict[str, int]


def _rows_to_score(spark: SparkSession, settings: ScoreSettings, lake: Lake, served: Served) -> _Work:
    """Rows of the input, or the test split; lines that are no whole records are left out and counted."""

    def work(rows: DataFrame, count: int, malformed: int) -> _Work:
        def scored(vectors: str) -> DataFrame:
            return score_rows(spread_by_domain(rows), served, vectors, settings.deviation)

        return _Work(count, count, scored, {"malformed": malformed})

    if not settings.input.path:
        examples = read_window(lake, served.versions["examples"])
        return work(read_test_split(lake, served), examples.where(F.col("split") == "test").count(), 0)
    requests = read_requests(spark, settings.input, served)
    malformed, count = F.sum(F.col(MALFORMED).cast("long")), F.count("*")
    # Spark reads no malformed lines alone: some other column must be asked for too.
    found = requests.agg(count, malformed, F.count("user")).collect()[0]
    bad = int(found[1] or 0)
    _warn_of_malformed(bad)
    whole = requests.where(~F.col(MALFORMED)).drop(MALFORMED)
    return work(encode_requests(whole, lake, served), int(found[0]) - bad, bad)


def _top_k(spark: SparkSession, settings: ScoreSettings, lake: Lake, served: Served) -> _Work:
    """The best candidates of rows of users."""
    plan = plan_top_k(spark, settings, lake, served)
    _warn_of_malformed(plan.malformed)

    def scored(vectors: str) -> DataFrame:
        return recommend(spark, plan, served, vectors, settings, _scored_schema())

    return _Work(plan.rows, plan.figures["pairs"], scored, {"malformed": plan.malformed, **plan.figures})


def _warn_of_malformed(lines: int) -> None:
    if lines:
        logger.warning("score.input.path: %d lines are no whole records and are not scored", lines)


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
        raise MamdrError(f"score.{text}" if text.startswith(("input.", "candidates.")) else text) from None


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
