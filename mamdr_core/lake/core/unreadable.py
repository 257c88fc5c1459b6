"""Translates Spark's errors about input files into one-line errors that name the file and the remedy."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import IllegalArgumentException, PySparkException

from mamdr_core.config.lake import InputSettings
from mamdr_core.config.yaml_values import one_line
from mamdr_core.lake.core.session import storage_errors
from mamdr_core.runtime.errors import MamdrError

# Error conditions and exceptions of Spark and Hadoop for missing, damaged or otherwise unreadable files.
UNREADABLE = re.compile(
    r"FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER|UNABLE_TO_INFER_SCHEMA|PATH_NOT_FOUND|DELTA_TABLE_NOT_FOUND|"
    r"DELTA_MISSING|DELTA_PATH_DOES_NOT_EXIST|is not a Delta table|EOFException|ZipException|"
    r"not in GZIP format|incorrect header check|MalformedInput|is not a Parquet file|ParquetDecodingException|"
    r"ChecksumException|MALFORMED_RECORD_IN_PARSING"
)
_HEADER = re.compile(r"CSV header does not conform|Number of column in CSV header is not equal")
_HEADER_DIFFERS = re.compile(r"Header length: \d+, schema size: \d+|Expected: .*? but found: [^\n]*")
_TYPE_DIFFERS = re.compile(r"column \[?([^\]\n]+?)\]?\. Expected Spark type (.+?), actual Parquet type (\w+)")
_OPTION = re.compile(r"UnsupportedCharset|INVALID_PARAMETER_VALUE|INVALID_OPTION")
_OVERFLOW = re.compile(r"ArithmeticException: (?:long|integer) overflow")
_URL = r"((?:file|s3a?|hdfs|abfss?|gs):/"
# In three messages the name of a file, which may contain spaces, has a known end; in others it ends at the first space.
_FILES = (
    re.compile(rf"reading file {_URL}[^\n]+?)\.\s+(?:SQLSTATE|Could not read)"),
    re.compile(rf"{_URL}[^\n]+?) is not a Parquet file"),
    re.compile(rf"Checksum error: {_URL}[^\n]+?) at \d+ exp"),
    re.compile(rf"{_URL}[^\s\"]+?)[.,']?(?=[\s\"]|$)"),
)


@contextmanager
def readable(settings: InputSettings) -> Iterator[None]:
    """Turn Spark's errors about input files and storage into MamdrError; must wrap every action on the input."""
    try:
        with storage_errors():
            yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        if _OVERFLOW.search(text):
            raise MamdrError(
                "input.columns: a value of the log is too large for one of the expressions; where one is "
                "timestamp_seconds(x), write timestamp(x): a rule then rejects such rows"
            ) from None
        if UNREADABLE.search(text):
            raise MamdrError(_explain(settings, text)) from None
        if isinstance(error, IllegalArgumentException) or _OPTION.search(text):
            raise MamdrError(f"input.options: Spark rejects them: {one_line(text)[:200]}") from None
        raise


def _explain(settings: InputSettings, text: str) -> str:
    if "PATH_NOT_FOUND" in text or "DELTA_PATH_DOES_NOT_EXIST" in text:
        return f"input.path: {one_line(settings.path)} matches nothing"
    if "UNABLE_TO_INFER_SCHEMA" in text:
        return f"input.path: {one_line(settings.path)} holds no {settings.format} data"
    file = next((found for pattern in _FILES if (found := pattern.search(text))), None)
    where = unquote(file.group(1)) if file else settings.path
    if "FILE_NOT_EXIST" in text:
        return f"input.path: {where} was deleted while the log was read; run again when the log is complete"
    if _HEADER.search(text) and settings.schema:
        differs = one_line(found.group()) if (found := _HEADER_DIFFERS.search(text)) else "see its first line"
        return (
            f"input.path: the header of {where} differs from input.schema ({differs}); declare its columns in their "
            "order"
        )
    if _HEADER.search(text):
        return f"input.path: the header of {where} differs from another file's; load such files separately"
    if settings.schema and (mismatch := _TYPE_DIFFERS.search(text)):
        return "input.schema: {1} is of type {2}, but {3} in {0}; declare what the file has".format(
            where, *mismatch.groups()
        )
    if "DATA_TYPE_MISMATCH" in text:
        return f"input.path: {where} has a column of another type than the other files; load it separately"
    return f"input.path: {where} cannot be read as {settings.format}; repair or remove the file, or set input.format"
