"""VACUUM that spares the files of named versions, of whatever age.

Delta's VACUUM decides by age alone: it removes every file that left the table longer ago than the retention, also one
that an older version names. Raising the retention to that version's age does not help: a table forgets which files left
it after delta.deletedFileRetentionDuration, and what it has forgotten is removed. So VACUUM is handed an inventory of
the table's files that lacks those to be spared.

Files are rows of DataFrames throughout: the driver's Python sees their number and bytes.
"""

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import NamedTuple

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.tables import Lake
from schemas import Table

logger = logging.getLogger(__name__)

CHECK = "spark.databricks.delta.retentionDurationCheck.enabled"
"""Spark's setting without which Delta refuses to remove files that are younger than the table's retention."""
_LOST = "Cannot time travel Delta table to version"
_VIEW = "maintain_inventory"
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000


class Total(NamedTuple):
    """How many files, and their bytes."""

    files: int
    bytes: int


def list_files(spark: SparkSession, path: str) -> DataFrame:
    """The data files below a table's folder, whoever wrote them; executors list, and open none.

    Returns:
        name (unique within a table), path (URI), length in bytes, modified (ms since 1970).
    """
    found = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(path)
    return found.where(F.col("path").endswith(".parquet")).select(
        _name("path").alias("name"), "path", "length", F.unix_millis("modificationTime").alias("modified")
    )


def total_of(files: DataFrame) -> Total:
    """The total of listed files."""
    found = files.agg(F.count("*"), F.coalesce(F.sum("length"), F.lit(0))).collect()[0]
    return Total(found[0], found[1])


def names_of(lake: Lake, table: Table, versions: Collection[int]) -> DataFrame:
    """Column `name`: the data files of some versions of a table.

    A version that Delta can no longer put together is skipped with a warning; any other failure is raised, so that
    nothing is removed in ignorance.

    Args:
        lake: the lake.
        table: of it.
        versions: the newest one among them, which can be read.
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
    """Those of the listed files that are old enough for `vacuum` to remove them."""
    return listed.where(F.col("modified") < F.lit(int(time.time() * 1000 - days * _DAY_MS + _HOUR_MS)))


def would_vacuum(spark: SparkSession, table: str, listed: DataFrame, days: int) -> DataFrame:
    """Those of the listed files that `vacuum` would remove from the table of a name in SQL."""
    # Without Delta's check of the retention: a dry run removes nothing.
    with _unchecked(spark):
        found = _run_vacuum(spark, table, listed, f"RETAIN {days * 24} HOURS DRY RUN")
    return listed.join(found.select(_name("path").alias("name")), "name", "left_semi")


def vacuum(spark: SparkSession, table: str, listed: DataFrame, days: int) -> None:
    """Remove the listed files that left the table more than `days` ago, or never were in it."""
    _run_vacuum(spark, table, listed, f"RETAIN {days * 24} HOURS")


def _run_vacuum(spark: SparkSession, table: str, listed: DataFrame, options: str) -> DataFrame:
    values = {
        "path": F.col("path"),
        "length": F.col("length"),
        "isDir": F.lit(False),
        "modificationTime": F.col("modified"),
    }
    # Delta compares the schema whole, and its columns may be null.
    inventory = listed.select(*(F.when(F.col("path").isNotNull(), value).alias(name) for name, value in values.items()))
    inventory.createOrReplaceTempView(_VIEW)
    try:
        return spark.sql(f"VACUUM {table} USING INVENTORY (SELECT * FROM {_VIEW}) {options}")
    finally:
        spark.catalog.dropTempView(_VIEW)


@contextmanager
def _unchecked(spark: SparkSession) -> Iterator[None]:
    before = spark.conf.get(CHECK, None)
    spark.conf.set(CHECK, "false")
    try:
        yield
    finally:
        if before is None:
            spark.conf.unset(CHECK)
        else:
            spark.conf.set(CHECK, before)


def _name(path: str) -> Column:
    return F.substring_index(path, "/", -1)
