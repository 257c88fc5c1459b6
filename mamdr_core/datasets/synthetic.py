"""generate_logs: synthetic logs with a known answer, written by Spark (docs/synthetic.md)."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from mamdr_core.config import Config
from mamdr_core.datasets.counters import Ids
from mamdr_core.datasets.settings import SyntheticSettings
from mamdr_core.datasets.world import DAY, World, draw_rows, make_world, published_vectors
from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import overriding

logger = logging.getLogger(__name__)

MARKER = "_synthetic.json"
BLOCK = 65_536
ROWS_A_TASK = 64 * BLOCK
"""Rows of a task at most: each adds a file of about 130 MB."""
_SCHEMA = pa.schema(
    [
        pa.field("user", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("true_probability", pa.float64(), nullable=False),
        pa.field("day", pa.date32(), nullable=False),
    ]
)
_WRITING = {
    # Rows are numbered in the order of days: a task keeps a file a day open, where Spark would sort the rows by day.
    "spark.sql.maxConcurrentOutputFileWriters": "32",
    # Spark's default, the old INT96, takes more bytes and time.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}


def generate_logs(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Write the logs to `input.path`, a folder a day, and vectors if any to `<input.path>_vectors/{users,items}`.

    Returns:
        rows, clicks, days, path, and vectors_path where vectors are written.

    Raises:
        MamdrError: `input.path` is not set, is not for Parquet, or holds something that this job did not write.
    """
    settings = config.synthetic or SyntheticSettings()
    files = _own_folder(spark, config, config.input.path)
    vectors = _own_folder(spark, config, f"{config.input.path.rstrip('/')}_vectors") if settings.vectors else None
    _empty(files, settings)
    with progress(spark, "logs"):
        write_logs(spark, synthetic_logs(spark, settings), files.root)
    # Counted from what was written; only the label column is read.
    rows, clicks = spark.read.parquet(files.root).agg(F.count("label"), F.sum("label")).collect()[0]
    figures = {"rows": rows, "clicks": clicks, "days": settings.days, "path": files.root}
    if vectors:
        _empty(vectors, settings)
        for of in ("user", "item"):
            with progress(spark, f"{of} vectors"):
                synthetic_vectors(spark, settings, of).write.mode("append").parquet(vectors.path(f"{of}s"))
        figures["vectors_path"] = vectors.root
    logger.info("%(rows)d rows, %(clicks)d clicks, %(days)d days at %(path)s", figures)
    return figures


def synthetic_logs(spark: SparkSession, settings: SyntheticSettings) -> DataFrame:
    """The logs: user, item, domain (strings u1, i1, d1), label, event_time, true_probability, day."""
    world = make_world(settings)
    return _in_blocks(spark, int(world.offsets[-1]), _SCHEMA, _row_blocks(world))


def write_logs(spark: SparkSession, logs: DataFrame, path: str) -> None:
    """Write Parquet, a folder a day, at the pace of Spark's writer (benchmarks/bench_generate.py)."""
    with overriding(spark, _WRITING):
        # Most ids of a file occur once or twice: a dictionary costs a fifth of the time and saves a tenth of the bytes.
        logs.write.option("parquet.enable.dictionary", "false").partitionBy("day").mode("append").parquet(path)


def synthetic_vectors(spark: SparkSession, settings: SyntheticSettings, of: str) -> DataFrame:
    """The published vectors of all users or items (`of`: user, item): id, vector."""
    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32()))])
    total = settings.users if of == "user" else settings.items
    return _in_blocks(spark, total, schema, _vector_blocks(settings, of, schema))


def _row_blocks(world: World) -> Callable[[Ids], pa.RecordBatch]:
    def make(numbers: Ids) -> pa.RecordBatch:
        rows = draw_rows(world, numbers)
        columns = (
            _names("u", rows.user),
            _names("i", rows.item),
            _names("d", rows.domain),
            rows.label,
            rows.time,
            rows.true_probability,
            (rows.time // DAY).astype(np.int32),
        )
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)

    return make


def _names(letter: str, ids: Ids) -> pa.Array:
    """The strings letter + id; made here, since Spark takes twice the time for it."""
    return pc.utf8_replace_slice(pa.array(ids).cast(pa.string()), 0, 0, letter)


def _vector_blocks(settings: SyntheticSettings, of: str, schema: pa.Schema) -> Callable[[Ids], pa.RecordBatch]:
    def make(ids: Ids) -> pa.RecordBatch:
        flat = published_vectors(settings, of, ids).ravel()
        ends = np.arange(len(ids) + 1, dtype=np.int32) * settings.vectors
        arrays = [_names(of[0], ids), pa.ListArray.from_arrays(ends, flat)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    return make


def _in_blocks(spark: SparkSession, total: int, schema: pa.Schema, make: Callable[[Ids], pa.RecordBatch]) -> DataFrame:
    """`make` over the numbers 0..total-1 in blocks; contents do not depend on how blocks are dealt to tasks."""
    blocks = -(-total // BLOCK)
    tasks = max(min(blocks, spark.sparkContext.defaultParallelism), -(-total // ROWS_A_TASK))

    def fill(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for block in batch.column(0).to_pylist():
                yield make(np.arange(block * BLOCK, min((block + 1) * BLOCK, total), dtype=np.int64))

    return spark.range(0, blocks, 1, tasks).mapInArrow(fill, from_arrow_schema(schema))


def _own_folder(spark: SparkSession, config: Config, path: str) -> Files:
    """The folder to write to: new, empty, or this job's earlier output."""
    if not config.input.path:
        raise MamdrError("input.path is not set: name the folder for the synthetic logs")
    if config.input.format != "parquet":
        raise MamdrError(f"input.format: generate_logs writes parquet, got {config.input.format}")
    files = Files(spark, path)
    children = files.children()
    if files.is_file() or (children and MARKER not in children):
        raise MamdrError(
            f"input.path: {files.root} holds something that generate_logs did not write; name a new folder"
        )
    return files


def _empty(files: Files, settings: SyntheticSettings) -> None:
    """Remove an earlier output, and mark the folder before anything is written to it."""
    files.delete()
    files.write_text(json.dumps(asdict(settings), default=str, indent=2), MARKER)
