"""generate_logs: synthetic logs with a known answer, written by Spark (docs/synthetic.md)."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from mamdr_core.config.datasets import SyntheticSettings
from mamdr_core.config.job_config import Config
from mamdr_core.datasets.conversion import output_folder
from mamdr_core.datasets.counters import Ids
from mamdr_core.datasets.world import DAY, World, draw_rows, make_world, published_vectors
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import WRITING_BY_DAY, overriding

logger = logging.getLogger(__name__)

MARKER = "_synthetic.json"
BLOCK = 65_536
ROWS_A_TASK = 64 * BLOCK
"""Maximum number of rows per task, which writes about 130 MB."""
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


def generate_logs(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Write the logs to `input.path`, one folder per day, and vectors to `<input.path>_vectors/{users,items}`.

    Returns:
        rows, clicks, days, path, and vectors_path where vectors are written.

    Raises:
        MamdrError: `input.path` is not set, has a format other than Parquet, or holds something else.
    """
    settings = config.synthetic or SyntheticSettings()
    files = output_folder(spark, config, "generate_logs", marker=MARKER)
    vectors = output_folder(spark, config, "generate_logs", "_vectors", MARKER) if settings.vectors else None
    _empty(files, settings)
    with progress(spark, "logs"):
        write_logs(spark, synthetic_logs(spark, settings), files.root)
    # Counted from the written files; only the label column is read.
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
    return _in_blocks(spark, int(world.offsets[-1]), _SCHEMA, partial(_rows, world))


def write_logs(spark: SparkSession, logs: DataFrame, path: str) -> None:
    """Write Parquet, one folder per day, as fast as the writer of Spark (benchmarks/bench_generate.py)."""
    with overriding(spark, WRITING_BY_DAY):
        # Most ids occur once or twice per file: a dictionary would cost 20 % of the time and save 10 % of the bytes.
        logs.write.option("parquet.enable.dictionary", "false").partitionBy("day").mode("append").parquet(path)


def synthetic_vectors(spark: SparkSession, settings: SyntheticSettings, of: str) -> DataFrame:
    """The published vectors of all users or items (`of`: user, item): id, vector."""
    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32()))])
    total = settings.users if of == "user" else settings.items
    return _in_blocks(spark, total, schema, partial(_vectors, settings, of, schema))


def _rows(world: World, numbers: Ids) -> pa.RecordBatch:
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


def _names(letter: str, ids: Ids) -> pa.Array:
    """The strings letter + id; twice as fast as in Spark."""
    return pc.utf8_replace_slice(pa.array(ids).cast(pa.string()), 0, 0, letter)


def _vectors(settings: SyntheticSettings, of: str, schema: pa.Schema, ids: Ids) -> pa.RecordBatch:
    flat = published_vectors(settings, of, ids).ravel()
    ends = np.arange(len(ids) + 1, dtype=np.int32) * settings.vectors
    arrays = [_names(of[0], ids), pa.ListArray.from_arrays(ends, flat)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _in_blocks(spark: SparkSession, total: int, schema: pa.Schema, make: Callable[[Ids], pa.RecordBatch]) -> DataFrame:
    """Apply `make` to the numbers 0..total-1 in blocks; the contents do not depend on the distribution over tasks."""
    blocks = -(-total // BLOCK)
    tasks = max(min(blocks, spark.sparkContext.defaultParallelism), -(-total // ROWS_A_TASK))

    def fill(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for block in batch.column(0).to_pylist():
                yield make(np.arange(block * BLOCK, min((block + 1) * BLOCK, total), dtype=np.int64))

    return spark.range(0, blocks, 1, tasks).mapInArrow(fill, from_arrow_schema(schema))


def _empty(files: Files, settings: SyntheticSettings) -> None:
    """Remove earlier output and mark the folder before anything is written."""
    files.delete()
    files.write_text(json.dumps(asdict(settings), default=str, indent=2), MARKER)
