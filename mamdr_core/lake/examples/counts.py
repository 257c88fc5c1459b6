"""How many examples there are by split, shard, domain and day: kept in a file, so that a build need not read them all.

A build leaves them beside the tables under its own name. The file only saves a scan: where it is missing or damaged, or
other jobs have removed rows since, the table is counted.
"""

import logging
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.windows import Window
from schemas import SPLITS, Table
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)

FOLDER = "example_counts"
_KEYS = ("split", "shard", "domain", "ds")
_SUMS = ("rows", "positives")
NOTHING = pa.schema(
    [
        *(("split", pa.string()), ("shard", pa.int32()), ("domain", pa.int32()), ("ds", pa.date32())),
        *((name, pa.int64()) for name in _SUMS),
    ]
).empty_table()
"""Counts of no example; `split` is null where days decide it."""


def count_examples(examples: DataFrame) -> pa.Table:
    """Count rows and positives of examples."""
    split = F.col("split") if "split" in examples.columns else F.lit(None).cast("string")
    counted = examples.groupBy(split.alias("split"), *_KEYS[1:]).agg(
        F.count("*").alias("rows"), F.sum(F.col("label").cast("bigint")).alias("positives")
    )
    return counted.toArrow().cast(NOTHING.schema)


def count_added(spark: SparkSession, lake: Lake, declared: Table, version: int) -> pa.Table:
    """Count the rows in the files that the commit of a version of the examples added."""
    root = lake.path(declared)
    files = [f"{root}/{unquote(name)}" for name in lake.log(declared).added_files(version)]
    if not files:
        return NOTHING
    reader = spark.read.schema(spark_schema(declared)).option("basePath", root)
    return count_examples(reader.parquet(*files))


def add_counts(first: pa.Table, second: pa.Table) -> pa.Table:
    """Counts of both."""
    grouped = pa.concat_tables([first, second]).group_by(_KEYS)
    summed = grouped.aggregate([(name, "sum") for name in _SUMS])
    return summed.select([*_KEYS, *(f"{name}_sum" for name in _SUMS)]).rename_columns(NOTHING.column_names)


def read_counts(spark: SparkSession, lake: Lake, build: str) -> pa.Table | None:
    """What a build left; None where that cannot be read."""
    if not build:
        return None
    try:
        content = Files(spark, lake.root).read_bytes(FOLDER, f"{build}.parquet")
        return None if content is None else pq.read_table(pa.BufferReader(content)).cast(NOTHING.schema)
    except (pa.ArrowException, ValueError, Py4JJavaError) as error:
        logger.warning("%s/%s.parquet cannot be read, so examples are counted: %s", FOLDER, build, type(error).__name__)
        return None


def write_counts(spark: SparkSession, lake: Lake, build: str, counts: pa.Table, before: str) -> None:
    """Leave the counts for the next build, and remove those of builds earlier than the one before."""
    files, sink = Files(spark, lake.root), pa.BufferOutputStream()
    pq.write_table(counts.sort_by([(name, "ascending") for name in _KEYS]), sink, compression="zstd")
    files.write_bytes(sink.getvalue().to_pybytes(), FOLDER, f"{build}.parquet")
    for name in files.children(FOLDER):
        if name.removesuffix(".parquet") not in (build, before):
            files.delete(FOLDER, name)


def rows_by_shard(counts: pa.Table) -> dict[int, dict[int, int]]:
    """Rows by domain and shard."""
    summed = counts.group_by(["domain", "shard"]).aggregate([("rows", "sum")])
    rows_n: dict[int, dict[int, int]] = {}
    for domain, shard, rows in zip(*(summed[name].to_pylist() for name in summed.column_names), strict=True):
        rows_n.setdefault(domain, {})[shard] = rows
    return rows_n


def counts_in(counts: pa.Table, window: Window) -> dict[str, pa.Table]:
    """By split, the counts of a window's rows."""
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
