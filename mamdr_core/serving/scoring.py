"""The job score: batch predictions in Spark, with theta_i of each row's domain."""

import logging
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import Config
from mamdr_core.config.serving import ScoreSettings
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import overriding, settings_for_many
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.core.unreadable import readable
from mamdr_core.lake.examples.encoding import IDS
from mamdr_core.lake.examples.versions import removed_version_errors
from mamdr_core.lake.examples.windows import read_window
from mamdr_core.models.structures import declare_inputs
from mamdr_core.parallel.shipping import ship_modules
from mamdr_core.runtime.clock import Clock
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.plugins import PluginImportError
from mamdr_core.serving.opening import find_served, read_vectors, send_vectors
from mamdr_core.serving.recommending import prepare_top_k
from mamdr_core.serving.requests import (
    MALFORMED,
    PreparedInput,
    encode_requests,
    read_requests,
    read_test_split,
    source_of,
)
from mamdr_core.serving.scorer import index_of, score_batches, scored_schema
from mamdr_core.serving.served import Served
from mamdr_core.training.own_code import modules_of, plugins_of

logger = logging.getLogger(__name__)

BATCH_ROWS, LEAST_ROWS = 1 << 15, 1 << 10
"""Largest and smallest limit of the rows in an Arrow batch that a task passes to Python."""
BATCH_IDS = 1 << 24
"""Largest number of ids and weights of bags and sequences in a batch (64 MiB)."""
TASK_ROWS = 250_000
"""Approximate number of rows that a task scores."""
_NOT_IMPORTED = re.compile(rf"{PluginImportError.__module__}.{PluginImportError.__name__}: ([^\n]+)")
_SETTINGS: dict[str, str | int] = {
    # Spark ignores the hint of `spread_by_domain` without adaptive execution.
    "spark.sql.adaptive.enabled": "true",
    # About TASK_ROWS compressed rows with short ids; larger partitions are split.
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "8m",
}


def score(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Score rows with a run, and replace the batch of that name in `scores`.

    Returns:
        run_id, batch, rows, domains, unknown_users, unknown_items, unknown_domains (numbers of rows), specific_rows
        (scored with specific parameters), no_number (rows with a NaN prediction), malformed (records left out),
        mean_score, rows_per_second (in the phase write), seconds by phase, scores_version. With `score.top_k` also
        users, users_of_unknown_domains and users_without_candidates (rows of users that get no items), candidates
        (without duplicates), candidates_left_out, pairs (scored) and pairs_per_second (in the phase write).

    Raises:
        MamdrError: the run or its package does not exist, or the input cannot be read, lacks a column or has no rows.
    """
    lake = Lake(spark, config.lake)
    clock = Clock()
    with clock.phase("open"):
        served = find_served(lake, config.score.run_id)
        batch = config.score.batch or served.run_id
        if not re.fullmatch(r"[\w.:-]+", batch):
            raise MamdrError(f"score.batch: {batch!r} must consist of letters, digits, _, ., : and -")
    with _naming_keys(config.score):
        with clock.phase("count"):
            prepare = prepare_top_k if config.score.top_k else _prepare_rows
            work = prepare(lake, config.score, served)
            if malformed := work.figures["malformed"]:
                logger.warning("score.input.path: %d malformed records are not scored", malformed)
        if not work.rows:
            raise MamdrError(f"score.input.path: {config.score.input.path or 'the test split'} has no rows to score")
        ship_modules(spark, modules_of(own for own in plugins_of(served.config) if own.key == "model.name"))
        logger.info("scoring %d rows with run %s as batch %s", work.pairs, served.run_id, batch)
        rows = {"spark.sql.execution.arrow.maxRecordsPerBatch": batch_rows(served.features)}
        settings = {**settings_for_many(spark, work.rows, TASK_ROWS), **_SETTINGS, **rows}
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
    """Rows of an Arrow batch: fewer where the bags and sequences of a row are long."""
    several = [feature for feature in features if feature.has_several_ids]
    ids = sum(feature.length * (2 if feature.weights else 1) for feature in several)
    return max(LEAST_ROWS, min(BATCH_ROWS, BATCH_IDS // max(1, ids)))


def spread_by_domain(rows: DataFrame) -> DataFrame:
    """Move the rows of a domain to one task, or to several if they are many, sorted by domain.

    A task then reads the theta_i of few domains, each once. Rows are partitioned by hash, and Spark splits large
    partitions. Ranges of domains would need a pass over all rows, including the joins with vocabularies, to find their
    bounds.
    """
    domain = index_of("domain")
    return rows.hint("rebalance", domain).sortWithinPartitions(domain)


def score_rows(rows: DataFrame, served: Served, vectors: str, deviation: bool = False) -> DataFrame:
    """Score encoded rows; see `mamdr_core.serving.scorer.score_batches`."""
    return rows.mapInArrow(partial(score_batches, served, vectors, deviation), scored_schema())


def _prepare_rows(lake: Lake, settings: ScoreSettings, served: Served) -> PreparedInput:
    """Count and encode the rows of the input, without malformed records, or of the test split."""

    def work(rows: DataFrame, count: int, malformed: int) -> PreparedInput:
        def scored(vectors: str) -> DataFrame:
            return score_rows(spread_by_domain(rows), served, vectors, settings.deviation)

        return PreparedInput(count, count, scored, {"malformed": malformed})

    if not settings.input.path:
        examples = read_window(lake, served.versions["examples"])
        return work(read_test_split(lake, served), examples.where(F.col("split") == "test").count(), 0)
    requests = read_requests(lake.spark, settings.input, served)
    malformed, count = F.sum(F.col(MALFORMED).cast("long")), F.count("*")
    # Spark refuses a query of the column of malformed records alone, so another column is counted too.
    found = requests.agg(count, malformed, F.count("user")).collect()[0]
    bad = int(found[1] or 0)
    whole = requests.where(~F.col(MALFORMED)).drop(MALFORMED)
    return work(encode_requests(whole, lake, served), int(found[0]) - bad, bad)


def _count(lake: Lake, batch: str) -> dict[str, Any]:
    """Counts of a batch in the table scores."""
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
    """Warn about domains without training rows if the structure's per-domain weights start from random values."""
    inputs = declare_inputs(served.config.model, served.features, served.sizes)
    if rows and any(table.per_domain and table.std for table in inputs.tables):
        logger.warning(
            "%d rows are of domains without training rows, and the per-domain weights of %s are untrained for these: "
            "train them (train.only_domains), or use a structure without per-domain weights",
            *(rows, served.config.model.name),
        )


@contextmanager
def _naming_keys(settings: ScoreSettings) -> Iterator[None]:
    """Make errors about the input name the keys of `score`."""
    try:
        reading = readable(source_of(settings.input)) if settings.input.path else nullcontext()
        with (
            removed_version_errors("a table at the version that the run was trained on"),
            reading,
            _explaining_workers(),
        ):
            yield
    except MamdrError as error:
        text = str(error)
        raise MamdrError(f"score.{text}" if text.startswith(("input.", "candidates.")) else text) from None


@contextmanager
def _explaining_workers() -> Iterator[None]:
    """Turn failures of Python workers that a user can fix into a MamdrError."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        if missing := _NOT_IMPORTED.search(str(error)):
            raise MamdrError(f"on an executor, {missing.group(1)}") from None
        if "Python worker exited unexpectedly" not in str(error):
            raise
        raise MamdrError(
            "a Python worker of Spark exited, most likely because of a lack of memory: increase executors' memory "
            "outside the JVM (spark.executor.memoryOverhead), or reduce their cores"
        ) from None
