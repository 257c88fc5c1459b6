"""VACUUM that spares the files of named versions, of whatever age.

Delta's VACUUM decides by age alone: it removes every file that left the table longer ago than the retention, also one
that an older version names. Raising the retention to that version's age does not help: a table forgets which files left
it after delta.deletedFileRetentionDuration, and what it has forgotten is removed. So VACUUM is handed an inventory of
the table's files that lacks those to be spared.
"""

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.tables import Lake
from schemas import Table

logger = logging.getLogger(__name__)

CHECK = "spark.databricks.delta.retentionDurationCheck.enabled"
"""Spark's setting without which Delta refuses to remove files that are younger than the table's retention."""
_LOST = "Cannot time travel Delta table to version"
_INVENTORY = "path string, length bigint, isDir boolean, modificationTime bigint"
_VIEW = "maintain_inventory"
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000


@dataclass(frozen=True)
class DataFile:
    """A file below a table's folder: its URI, bytes, and when it was written (ms since 1970)."""

    path: str
    length: int
    modified: int


DataFiles = dict[str, DataFile]
"""Data files by name; Delta gives every file a name of its own."""


def total_bytes(files: DataFiles) -> int:
    """Bytes of all of them."""
    return sum(file.length for file in files.values())


def list_files(spark: SparkSession, path: str) -> DataFiles:
    """The data files below a table's folder, whoever wrote them; executors list, and open none."""
    found = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(path)
    listed = found.where(F.col("path").endswith(".parquet")).select(
        "path", "length", F.unix_millis("modificationTime").alias("modified")
    )
    return {_name(row["path"]): DataFile(*row) for row in listed.collect()}


def files_of(lake: Lake, table: Table, versions: Collection[int]) -> set[str]:
    """Names of the data files of some versions.

    A version that Delta can no longer put together is skipped with a warning; any other failure is raised, so that
    nothing is removed in ignorance.
    """
    names: set[str] = set()
    for version in sorted(versions):
        try:
            files = lake.read(table, version).inputFiles()
        except AnalysisException as error:
            if _LOST not in str(error):
                raise
            logger.warning("%s version %d, an input of a kept run, was lost before: %s", table.name, version, error)
            continue
        names.update(_name(file) for file in files)
    return names


def would_vacuum(spark: SparkSession, table: str, listed: DataFiles, days: int) -> DataFiles:
    """Those of the listed files that `vacuum` would remove from the table of a name in SQL."""
    # Most days there is no file of that age, and nothing to ask Delta.
    before = time.time() * 1000 - days * _DAY_MS + _HOUR_MS
    old = {name: file for name, file in listed.items() if file.modified < before}
    if not old:
        return {}
    # Without Delta's check of the retention: a dry run removes nothing.
    with _unchecked(spark):
        found = _run_vacuum(spark, table, old, f"RETAIN {days * 24} HOURS DRY RUN").collect()
    names = {_name(row["path"]) for row in found}
    return {name: file for name, file in old.items() if name in names}


def vacuum(spark: SparkSession, table: str, listed: DataFiles, days: int) -> None:
    """Remove the listed files that left the table more than `days` ago, or never were in it."""
    _run_vacuum(spark, table, listed, f"RETAIN {days * 24} HOURS")


def _run_vacuum(spark: SparkSession, table: str, listed: DataFiles, options: str) -> DataFrame:
    rows = [(file.path, file.length, False, file.modified) for file in listed.values()]
    spark.createDataFrame(rows, _INVENTORY).createOrReplaceTempView(_VIEW)
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


def _name(path: str) -> str:
    return path.rpartition("/")[2]
