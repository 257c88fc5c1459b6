"""VACUUM that keeps the files of given versions, however old they are.

Delta's VACUUM decides by age alone: it removes every file that was removed from the table longer ago than the
retention, even if an older version contains it. A longer retention does not help: after
delta.deletedFileRetentionDuration Delta drops its record of a removed file, and VACUUM deletes files without a record.
So VACUUM gets an inventory of the table's files from which the files to keep are excluded.

Files are rows of DataFrames throughout; the driver only gets totals.
"""

import logging
import time
from collections.abc import Collection
from functools import reduce
from typing import NamedTuple

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.session import overriding
from mamdr_core.lake.core.tables import Lake
from schemas import DeclaredTable

logger = logging.getLogger(__name__)

CHECK = "spark.databricks.delta.retentionDurationCheck.enabled"
"""Spark's setting for Delta's check that no files younger than a week are removed."""
_LOST = "Cannot time travel Delta table to version"
_VIEW = "maintain_inventory"
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000


class Total(NamedTuple):
    """Number and total size in bytes of files."""

    files: int
    bytes: int


def list_files(spark: SparkSession, path: str) -> DataFrame:
    """List the data files in a table's folder on executors, without opening them.

    Returns:
        name (unique within a table), path (URI), length in bytes, modified (ms since 1970).
    """
    found = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(path)
    return found.where(F.col("path").endswith(".parquet")).select(
        _name("path").alias("name"), "path", "length", F.unix_millis("modificationTime").alias("modified")
    )


def total_of(files: DataFrame) -> Total:
    """Number and size of listed files."""
    found = files.agg(F.count("*"), F.coalesce(F.sum("length"), F.lit(0))).collect()[0]
    return Total(found[0], found[1])


def names_of(lake: Lake, table: DeclaredTable, versions: Collection[int]) -> DataFrame:
    """The data files of some versions of a table, in the column `name`.

    A version that Delta can no longer reconstruct is skipped with a warning; other errors are raised, so that no needed
    file is removed.

    Args:
        versions: the versions, including the newest one.
    """
    found = []
    for version in sorted(versions):
        try:
            found.append(lake.log(table).files(version))
        except AnalysisException as error:
            if _LOST not in str(error):
                raise
            logger.warning("%s version %d, an input of a kept run, was lost before: %s", table.name, version, error)
    return reduce(DataFrame.union, found).select(_name("path").alias("name")).distinct()


def old_files(listed: DataFrame, days: int) -> DataFrame:
    """The listed files that are old enough to be removed by `vacuum`."""
    return listed.where(F.col("modified") < F.lit(int(time.time() * 1000 - days * _DAY_MS + _HOUR_MS)))


def would_vacuum(spark: SparkSession, table: str, listed: DataFrame, days: int) -> DataFrame:
    """The listed files that `vacuum` would remove; `table` is the table's name in SQL."""
    # A dry run removes nothing, so it does not need Delta's check of the retention.
    with overriding(spark, {CHECK: "false"}):
        found = _run_vacuum(spark, table, listed, f"RETAIN {days * 24} HOURS DRY RUN")
    return listed.join(found.select(_name("path").alias("name")), "name", "left_semi")


def vacuum(spark: SparkSession, table: str, listed: DataFrame, days: int) -> None:
    """Remove the listed files that were removed from the table more than `days` ago, or never belonged to it."""
    _run_vacuum(spark, table, listed, f"RETAIN {days * 24} HOURS")


def _run_vacuum(spark: SparkSession, table: str, listed: DataFrame, options: str) -> DataFrame:
    values = {
        "path": F.col("path"),
        "length": F.col("length"),
        "isDir": F.lit(False),
        "modificationTime": F.col("modified"),
    }
    # Delta requires exactly this schema, with nullable columns.
    inventory = listed.select(*(F.when(F.col("path").isNotNull(), value).alias(name) for name, value in values.items()))
    inventory.createOrReplaceTempView(_VIEW)
    try:
        return spark.sql(f"VACUUM {table} USING INVENTORY (SELECT * FROM {_VIEW}) {options}")
    finally:
        spark.catalog.dropTempView(_VIEW)


def _name(path: str) -> Column:
    return F.substring_index(path, "/", -1)
