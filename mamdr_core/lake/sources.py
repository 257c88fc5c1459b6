"""Reading the raw log: whatever Spark reads, with a clear error where it cannot."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.errors import MamdrError
from mamdr_core.lake.files import Files
from mamdr_core.lake.settings import InputSettings

# Error conditions and exceptions of Spark and Hadoop that mean "this file is not what you say it is".
_UNREADABLE = re.compile(
    r"FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER|UNABLE_TO_INFER_SCHEMA|PATH_NOT_FOUND|DELTA_TABLE_NOT_FOUND|"
    r"DELTA_MISSING|DELTA_PATH_DOES_NOT_EXIST|is not a Delta table|EOFException|ZipException|"
    r"not in GZIP format|incorrect header check|MalformedInput|is not a Parquet file|ParquetDecodingException"
)
_GLOB = re.compile(r"[*?{\[]")
_FILE = re.compile(r"((?:file|s3a?|hdfs|abfss?|gs):/[^\s'\"]+?)[.,]?(?=[\s'\"]|$)")


def read_input(spark: SparkSession, settings: InputSettings) -> DataFrame:
    """The raw log as it is.

    Raises:
        MamdrError: `input.path` is empty or matches nothing, or holds nothing in the declared format.
    """
    if not settings.path:
        raise MamdrError("input.path is not set: name the file, folder or glob of the raw log")
    # Spark logs a stack trace for a glob, which it first takes for a folder; so globs are expanded here.
    paths = Files(spark, settings.path).matches() if _GLOB.search(settings.path) else [settings.path]
    if not paths:
        raise MamdrError(f"input.path: {settings.path} matches nothing")
    with readable(settings):
        raw = spark.read.format(settings.format).options(**settings.options).load(paths)
    if not raw.columns:
        raise MamdrError(f"input.path: {settings.path} holds no {settings.format} data")
    return raw


@contextmanager
def readable(settings: InputSettings) -> Iterator[None]:
    """Turn Spark's errors about the input's files into MamdrError; wrap every action on the input in it."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        if not _UNREADABLE.search(text):
            raise
        raise MamdrError(_explain(settings, text)) from None


def _explain(settings: InputSettings, text: str) -> str:
    if "PATH_NOT_FOUND" in text or "DELTA_PATH_DOES_NOT_EXIST" in text:
        return f"input.path: {settings.path} matches nothing"
    if "UNABLE_TO_INFER_SCHEMA" in text:
        return f"input.path: {settings.path} holds no {settings.format} data"
    file = _FILE.search(text)
    where = file.group(1) if file else settings.path
    return f"input.path: {where} cannot be read as {settings.format}; mend or remove the file, or set input.format"


def resolve(raw: DataFrame, key: str, expression: str) -> Column:
    """A configured expression as a column of `raw`.

    Args:
        raw: the raw log.
        key: the config key, for the error.
        expression: Spark SQL.

    Raises:
        MamdrError: it cannot be parsed, or names a column that does not exist.
    """
    try:
        analyzed = raw.select(F.expr(expression))
        plan = str(analyzed._jdf.queryExecution().analyzed().toString())
    except PySparkException as error:
        reason = "cannot be parsed" if "PARSE_SYNTAX_ERROR" in str(error) else _reason(error)
    else:
        # Spark takes the word `user` for the account that runs the job where the log has no such column.
        if "current_user()" not in plan:
            return F.expr(expression)
        reason = "names no existing column: user"
    raise MamdrError(f"{key}: {expression!r} {reason}; columns of the log: {', '.join(raw.columns)}") from None


def _reason(error: PySparkException) -> str:
    unresolved = re.search(r"UNRESOLVED_\w+[^`]*`([^`]+(?:`\.`[^`]+)*)`", str(error))
    if "UNRESOLVED_COLUMN" in str(error) and unresolved:
        return f"names no existing column: {unresolved.group(1)}"
    return f"is not valid: {str(error).splitlines()[0]}"
