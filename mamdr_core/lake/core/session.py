"""The Spark session of a job, ready for Delta."""

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from mamdr_core.config.yaml_values import one_line
from mamdr_core.lake.core.java import OF_COLUMNS, java_class
from mamdr_core.runtime.errors import MamdrError

# Under spark-submit the JVM has started before Python runs, so settings of the JVM itself (class path, memory) are in
# environment/spark/spark-defaults.conf. The settings below are read when the session is created.
_SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    # A value that cannot be cast becomes null, and a rule rejects its row; ANSI mode would fail the job.
    "spark.sql.ansi.enabled": "false",
    "spark.databricks.delta.schema.autoMerge.enabled": "false",
    # With every commit Delta would run a Spark job to list the files of the previous version, for a copy of the list
    # that only its own checks read. If the JVM's time zone is not UTC, it would also read the whole log to check the
    # copy.
    "spark.databricks.delta.allFilesInCrc.enabled": "false",
    # Spark would look up which line of Python and of the JVM makes each Column: five calls to the JVM instead of one.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.dataFrameQueryContext.enabled": "false",
}
# With few cores, Spark's defaults (200 shuffle partitions, 50 of Delta's snapshot) cost seconds for each table.
_LOCAL_SETTINGS = {
    "spark.sql.shuffle.partitions": "8",
    "spark.databricks.delta.snapshotPartitions": "2",
}
FEW_ROWS, FEW_BYTES = 250_000, 8 << 20
"""Maximum rows, or bytes of a log, for which one task is faster than several."""
FEW_HELD = 64 << 20
"""Maximum total size of the tables with which few rows are joined, in bytes."""
ROW_BYTES = 16
"""Minimum size of a row of a vocabulary or of clicks, in bytes."""
FEW: Mapping[str, str | int] = {"spark.sql.shuffle.partitions": 1, "spark.sql.adaptive.enabled": "false"}
"""Settings for few rows: adaptive execution would plan a query again after each shuffle, in a separate job."""
ROWS_A_TASK = 1_500_000
"""Rows of a task after a shuffle, so that its hash tables and sorts stay in memory; Spark coalesces smaller ones."""
READS_A_CORE = 3
"""Minimum number of tasks a core that read a large table, as far as its row groups allow."""
WRITING_BY_DAY: Mapping[str, str | int] = {
    # A row group is read by one task, and each open file holds one in memory.
    "parquet.block.size": 32 << 20,
    # A task keeps one file open for each day; otherwise Spark would sort its rows by day.
    "spark.sql.maxConcurrentOutputFileWriters": "32",
    # Spark's default, the legacy type INT96, takes more space and time.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}
"""Settings for writing rows that are partitioned by day."""
# PySpark prints the JVM's stack trace of every error in an expression, even if the error is caught and explained.
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
    """Get or create the session, tuned for a few cores in local mode.

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
        # A self-hosted server, which this variable selects, rarely has a host name for each bucket.
        spark._jsc.hadoopConfiguration().set(path_style, "true")
    for java_name in OF_COLUMNS:
        java_class(spark, java_name)
    try:
        # JARs given by --jars, --packages or spark.jars have this class loader, which Class.forName does not use.
        loader = java_class(spark, "java.lang.Thread").currentThread().getContextClassLoader()
        loader.loadClass("io.delta.tables.DeltaTable")
    except Py4JJavaError:
        raise MamdrError(
            "Delta's JARs are not on Spark's class path: run `make setup`, or submit with "
            "--packages io.delta:delta-spark_2.13:4.0.1 (--jars on a cluster without internet)"
        ) from None
    return spark


@contextmanager
def overriding(spark: SparkSession, values: Mapping[str, str | int]) -> Iterator[None]:
    """Override settings of the session for the length of a block.

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


def settings_for_many(spark: SparkSession, rows: int, a_task: int = ROWS_A_TASK) -> dict[str, int]:
    """Settings for a job that reads and shuffles this number of rows: more tasks than by default.

    Files are read by several tasks a core, so that no core waits long for the last one.
    """
    wanted = {
        "spark.sql.shuffle.partitions": -(-rows // a_task),
        "spark.sql.files.minPartitionNum": READS_A_CORE * spark.sparkContext.defaultParallelism,
    }
    # Spark checks a default of its own settings too, so none is given.
    return {name: max(int(spark.conf.get(name, None) or 0), least) for name, least in wanted.items()}


def settings_for(spark: SparkSession, rows: int, held: int = 0) -> Mapping[str, str | int]:
    """Settings for a job that shuffles this number of rows, and tables with a total size of `held` bytes."""
    few = rows <= FEW_ROWS and held <= FEW_HELD
    return FEW if few else settings_for_many(spark, max(rows, held // ROW_BYTES))


def memory_of(spark: SparkSession) -> int:
    """Memory in bytes of the driver or of an executor, whichever is smaller."""
    driver = int(java_class(spark, "java.lang.Runtime").getRuntime().maxMemory())
    if not str(spark.sparkContext.master).startswith(("spark:", "yarn", "k8s:", "local-cluster")):
        return driver
    executor = spark.sparkContext.getConf().get("spark.executor.memory", "1g")
    return min(driver, int(java_class(spark, "org.apache.spark.network.util.JavaUtils").byteStringAsBytes(executor)))


@contextmanager
def spark_session(name: str) -> Iterator[SparkSession]:
    """A session for the length of a job; it is always stopped at the end.

    Raises:
        MamdrError: see `make_session` and `storage_errors`.
    """
    with make_session(name) as spark, storage_errors():
        yield spark


@contextmanager
def storage_errors(table: str = "") -> Iterator[None]:
    """Turn Spark's errors about storage into MamdrError: a lost object store, a full disk, a damaged log of a table.

    Args:
        table: path of the table that the block reads, for errors that do not name a file.
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
