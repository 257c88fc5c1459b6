"""Counts of examples by split, shard, domain and day, stored in a file so that builds need not scan the table.

Each build writes a separate file in the lake. The table is counted instead if the file is missing or damaged, if a
window needs single days of which the file has only the sum, or if rows have been removed since.
"""

import hashlib
import logging
from datetime import date
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.windows import Window
from schemas import SPLITS, DeclaredTable
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)

FOLDER = "example_counts"
_EARLIER = date(1970, 1, 1)
"""Represents all days before those that a window needs singly, so that the counts do not grow with the history."""
_KEYS = ("split", "shard", "domain", "ds")
_SUMS = ("rows", "positives")
NOTHING = pa.schema(
    [
        *(("split", pa.string()), ("shard", pa.int32()), ("domain", pa.int32()), ("ds", pa.date32())),
        *((name, pa.int64()) for name in _SUMS),
    ]
).empty_table()
"""Empty counts; `split` is the empty string if days decide it."""
_DISTINCT_FROM = b"days are distinct from"
_DIGEST = hashlib.sha256().digest_size


def count_examples(examples: DataFrame, window: Window) -> pa.Table:
    """Count rows and positives of examples, by single days from the first day that this or a later window needs."""
    first = _distinct_from(window)
    split = F.col("split") if "split" in examples.columns else F.lit("")
    ds = F.when(F.col("ds") >= first, F.col("ds")).otherwise(_EARLIER)
    counted = examples.groupBy(split.alias("split"), "shard", "domain", ds.alias("ds")).agg(
        F.count("*").alias("rows"), F.sum(F.col("label").cast("bigint")).alias("positives")
    )
    return counted.toArrow().cast(NOTHING.schema)


def count_added(lake: Lake, declared: DeclaredTable, version: int, window: Window) -> pa.Table:
    """Count the rows in the files that the commit of a version of the examples added."""
    root = lake.path(declared)
    files = [f"{root}/{unquote(name)}" for name in lake.log(declared).added_files(version)]
    if not files:
        return NOTHING
    # By this internal option of Spark, brackets in a lake's path are not glob patterns.
    options = {"basePath": root, "__globPaths__": "false"}
    return count_examples(lake.spark.read.schema(spark_schema(declared)).options(**options).parquet(*files), window)


def add_counts(first: pa.Table, second: pa.Table) -> pa.Table:
    """Sum two tables of counts."""
    grouped = pa.concat_tables([first, second]).group_by(_KEYS)
    summed = grouped.aggregate([(name, "sum") for name in _SUMS])
    return summed.select([*_KEYS, *(f"{name}_sum" for name in _SUMS)]).rename_columns(NOTHING.column_names)


def read_counts(lake: Lake, build: str, window: Window) -> pa.Table | None:
    """Read the counts of a build; None if they cannot be read or do not have the single days that the window needs."""
    if not build:
        return None
    try:
        content = lake.files.read_bytes(FOLDER, build)
    except Py4JJavaError as error:
        logger.warning("%s/%s cannot be read, so examples are counted: %s", FOLDER, build, error.java_exception)
        return None
    if content is None:
        return None
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        logger.warning("%s/%s is damaged, so examples are counted", FOLDER, build)
        return None
    found = pq.read_table(pa.BufferReader(content[_DIGEST:]))
    if _distinct_from(window) < date.fromisoformat(found.schema.metadata[_DISTINCT_FROM].decode()):
        return None
    counts = found.cast(NOTHING.schema)
    is_later = pc.greater_equal(counts["ds"], pa.scalar(_distinct_from(window)))
    days = pc.if_else(is_later, counts["ds"], pa.scalar(_EARLIER))
    return add_counts(counts.set_column(_KEYS.index("ds"), "ds", days), NOTHING)


def write_counts(lake: Lake, build: str, counts: pa.Table, window: Window, before: str) -> None:
    """Write the counts of a build, and remove those of all builds except this and the one before."""
    files, sink = lake.files, pa.BufferOutputStream()
    metadata = {_DISTINCT_FROM: _distinct_from(window).isoformat()}
    pq.write_table(counts.replace_schema_metadata(metadata), sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    try:
        files.write_bytes(hashlib.sha256(content).digest() + content, FOLDER, build)
        for name in files.children(FOLDER):
            if name not in (build, before):
                files.delete(FOLDER, name)
    except Py4JJavaError as error:  # the examples are complete: only the next build takes longer
        logger.warning("%s cannot be written, so the next build counts all examples: %s", FOLDER, error.java_exception)


def _distinct_from(window: Window) -> date:
    """The first day that is counted singly: the earliest limit of the window, since windows only move forward."""
    return min(filter(None, (window.first, window.val_from)), default=date.max)


def rows_by_shard(counts: pa.Table) -> dict[int, dict[int, int]]:
    """Number of rows by domain and shard."""
    summed = counts.group_by(["domain", "shard"]).aggregate([("rows", "sum")])
    rows_n: dict[int, dict[int, int]] = {}
    for domain, shard, rows in zip(*(summed[name].to_pylist() for name in summed.column_names), strict=True):
        rows_n.setdefault(domain, {})[shard] = rows
    return rows_n


def counts_in(counts: pa.Table, window: Window) -> dict[str, pa.Table]:
    """The counts of a window's rows by split."""
    found = {}
    for split in SPLITS:
        first, last = window.limits(split)
        chosen = counts if window.decides_split else counts.filter(pc.equal(counts["split"], split))
        if first:
            chosen = chosen.filter(pc.greater_equal(chosen["ds"], pa.scalar(first)))
        if last:
            chosen = chosen.filter(pc.less_equal(chosen["ds"], pa.scalar(last)))
        found[split] = chosen
    return found
