"""The Spark session of a job, ready for Delta."""

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from mamdr_core.config.yaml_values import one_line
from mamdr_core.runtime.errors import MamdrError

# Under spark-submit the JVM is up before Python runs, so nothing here may concern the JVM's start (class path, memory):
# those are in environment/spark/spark-defaults.conf. These are read when the session is made.
_SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    # A value of the log that cannot be cast becomes null and its row is rejected by name; ANSI mode would fail the job.
    "spark.sql.ansi.enabled": "false",
    "spark.databricks.delta.schema.autoMerge.enabled": "false",
    # With every commit Delta would list the files of the version before, a Spark job, for a copy of the list that only
    # its own checks read; where the JVM's time zone is not UTC it would also read the whole log back to check the copy.
    "spark.databricks.delta.allFilesInCrc.enabled": "false",
    # Spark would look up which line of Python and of the JVM makes each Column: five calls to the JVM instead of one.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.dataFrameQueryContext.enabled": "false",
}
# Spark's defaults (200 shuffle partitions, 50 of Delta's snapshot) cost seconds a table where a few cores do the work.
_LOCAL_SETTINGS = {
    "spark.sql.shuffle.partitions": "8",
    "spark.databricks.delta.snapshotPartitions": "2",
}
FEW_ROWS, FEW_BYTES = 250_000, 8 << 20
"""Rows, or bytes of a log, that one task shuffles sooner than several are started."""
FEW_HELD = 64 << 20
"""Bytes of tables that few rows are compared with."""
ROW_BYTES = 16
"""Bytes of a row of a vocabulary, or of clicks, at least."""
FEW: Mapping[str, str | int] = {"spark.sql.shuffle.partitions": 1, "spark.sql.adaptive.enabled": "false"}
"""Settings for few rows: adaptive execution plans a query again after each of its shuffles, and starts a job for it."""
ROWS_A_TASK = 1_500_000
"""Rows of a shuffle's task, so that its hash tables and sorts stay in memory; Spark joins what turns out smaller."""
# PySpark prints the JVM's stack traces of every error in an expression, also of those that are caught and explained.
_LOUD_LOGGERS = ("DataFrameQueryContextLogger", "SQLQueryContextLogger")
_STORE_LOST = re.compile(r"AWSClientIOException|SdkClientException|HttpChannelEOFException|ConnectionClosedException")
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_WRITTEN = re.compile(r"while writing rows to (\S+?)\.? SQLSTATE")
_LOG_DAMAGED = re.compile(
    r"DELTA_VERSIONS_NOT_CONTIGUOUS\] (?P<gap>Versions \([\d, ]+\) are not contiguous)|DELTA_TRUNCATED_TRANSACTION_LOG|"
    r"DELTA_MISSING_PART_FILES|(?:FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER)[^\n]*/_delta_log/"
)
_LOG_FILE = re.compile(r"[^\s:]+:/\S+/_delta_log/[\w.-]*\w")


def make_session(name: str) -> SparkSession:
    """Get or create the session; in local mode tuned for a few cores.

    Raises:
        MamdrError: Delta's JARs are not on the class path.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    for logger in _LOUD_LOGGERS:
        PySparkLogger.getLogger(logger).setLevel(logging.CRITICAL)
    builder = SparkSession.builder.appName(name)
    for key, value in _SETTINGS.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    if str(spark.sparkContext.master).startswith("local"):
        for key, value in _LOCAL_SETTINGS.items():
            if spark.sparkContext.getConf().get(key) is None:
                spark.conf.set(key, value)
    path_style = "fs.s3a.path.style.access"
    if os.environ.get("AWS_ENDPOINT_URL") and spark.sparkContext.getConf().get(f"spark.hadoop.{path_style}") is None:
        # A server of one's own, to which Spark goes by that variable, seldom has a host name for each bucket.
        spark._jsc.hadoopConfiguration().set(path_style, "true")
    jvm: Any = spark._jvm
    try:
        # The class loader of JARs given by --jars, --packages or spark.jars, which Class.forName does not ask.
        loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
        loader.loadClass("io.delta.tables.DeltaTable")
    except Py4JJavaError:
        raise MamdrError(
            "Delta's JARs are not on Spark's class path: run `make setup`, or submit with "
            "--packages io.delta:delta-spark_2.13:4.0.1 (--jars on a cluster without internet)"
        ) from None
    return spark


@contextmanager
def overriding(spark: SparkSession, values: Mapping[str, str | int]) -> Iterator[None]:
    """Settings of the session for the length of a block.

    Example:
        >>> with overriding(spark, {"spark.sql.shuffle.partitions": 64}):  # doctest: +SKIP
        ...     rows.write.parquet(path)
    """
    before = {key: spark.conf.get(key, None) for key in values}
    try:
        for key, value in values.items():
            spark.conf.set(key, str(value))
        yield
    finally:
        for key, old in before.items():
            if old is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, old)


def shuffles_of(spark: SparkSession, rows: int, a_task: int = ROWS_A_TASK) -> dict[str, int]:
    """Settings for a job that shuffles this number of rows: if it is large, more partitions than the default."""
    name = "spark.sql.shuffle.partitions"
    return {name: max(int(str(spark.conf.get(name))), -(-rows // a_task))}


def settings_for(spark: SparkSession, rows: int, held: int = 0) -> Mapping[str, str | int]:
    """Settings for a job that shuffles this many rows, and tables of `held` bytes."""
    few = rows <= FEW_ROWS and held <= FEW_HELD
    return FEW if few else {**shuffles_of(spark, max(rows, held // ROW_BYTES))}


def memory_of(spark: SparkSession) -> int:
    """Bytes of memory of the driver or of an executor, whichever has less."""
    jvm: Any = spark._jvm
    driver = int(jvm.java.lang.Runtime.getRuntime().maxMemory())
    if not str(spark.sparkContext.master).startswith(("spark:", "yarn", "k8s:", "local-cluster")):
        return driver
    executor = spark.sparkContext.getConf().get("spark.executor.memory", "1g")
    return min(driver, int(jvm.org.apache.spark.network.util.JavaUtils.byteStringAsBytes(executor)))


@contextmanager
def spark_session(name: str) -> Iterator[SparkSession]:
    """A session for the length of a job, stopped at its end whatever happens.

    Raises:
        MamdrError: as `make_session` and `storage_errors`.
    """
    spark = make_session(name)
    try:
        with storage_errors():
            yield spark
    finally:
        spark.stop()


@contextmanager
def storage_errors(table: str = "") -> Iterator[None]:
    """Turn Spark's errors about storage into MamdrError: a lost object store, a full disk, a damaged log of a table.

    Args:
        table: path of the table that the block reads; where it reads several, the error may not name the table.
    """
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        if not (reason := _explain(str(error), table)):
            raise
        raise MamdrError(reason) from None


def _explain(text: str, table: str) -> str | None:
    if lost := _STORE_LOST.search(text):
        found = one_line(text[max(text.rfind("\n", 0, lost.start()), 0) :])[:200]
        return f"the connection to an object store was lost; run it again ({found})"
    if _DISK_FULL.search(text):
        written = _WRITTEN.search(text)
        where = f" while {written.group(1)} was written" if written else ""
        return f"the disk is full{where}: free some space (docs/operations.md, The disk is full) and run it again"
    if damaged := _LOG_DAMAGED.search(text):
        file = _LOG_FILE.search(text)
        where = file.group() if file else f"{table or 'a table'}/_delta_log"
        found = damaged.group("gap") or "a file is missing or cannot be read"
        return f"{where}: the log of the table is damaged ({found}); restore its files from a backup of the lake"
    return None
