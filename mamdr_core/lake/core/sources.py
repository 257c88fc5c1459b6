"""Reads the raw log in any format of Spark, and explains what is wrong with it."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException, SparkRuntimeException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config.lake import InputSettings
from mamdr_core.config.yaml_values import one_line
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.java import java_class
from mamdr_core.lake.core.log import Log
from mamdr_core.lake.core.unreadable import UNREADABLE, readable
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)

_UNNAMED, _SEPARATOR = re.compile(r"_c\d+"), re.compile(r"[;\t|,]")
_GLOB = re.compile(r"[*?{\[]")
# If the log has no column `user`, Spark reads the word as the account that runs the job.
_NO_USER = "current_user()"
_OF_LINES = ("csv", "json")
_IN_CSV = (T.StringType, T.NumericType, T.BooleanType, T.DateType, T.TimestampType, T.TimestampNTZType)
CHECKED_FOOTERS = 20
"""Maximum number of Parquet files whose columns are compared with `input.schema`."""
CORRUPT = "_corrupt_record"
"""Column with the text of a malformed line; null for a complete record."""


def read_input(spark: SparkSession, settings: InputSettings, schema: T.StructType | None = None) -> DataFrame:
    """Read the raw log; for CSV and JSON with the column CORRUPT.

    Every scan of the result reads the same version of a Delta table.

    Args:
        schema: schema of a CSV or JSON log that was read before, including CORRUPT; None: inferred.

    Raises:
        MamdrError: `input.path` is empty, matches nothing, or has no data in the declared format; an option would drop
            rows without counting them; `input.schema` is not DDL.
    """
    if not settings.path:
        raise MamdrError("input.path is not set: name the file, folder or glob of the raw log")
    # Globs are expanded here, because Spark first reads a glob as a folder and logs a stack trace.
    files = Files(spark, settings.path)
    paths = files.matches() if _GLOB.search(settings.path) else [settings.path]
    if not paths:
        raise MamdrError(f"input.path: {one_line(settings.path)} matches nothing")
    if any(key.lower() == "mode" and str(value).upper() == "DROPMALFORMED" for key, value in settings.options.items()):
        raise MamdrError(
            "input.options.mode: DROPMALFORMED drops rows without counting them; leave it out, and malformed rows are "
            "counted"
        )
    with readable(settings):
        if schema is None:
            raw = _load(spark, settings, paths)
            if settings.schema and settings.format == "parquet":
                _check_columns(spark, settings, raw)
            found = [column for column in raw.schema.fields if column.name != CORRUPT]
            if not found:
                raise MamdrError(f"input.path: {one_line(settings.path)} holds no {settings.format} data")
            if settings.format not in _OF_LINES:
                return raw
            schema = T.StructType([*found, T.StructField(CORRUPT, T.StringType())])
        # With column pruning, Spark accepts lines with too few or too many fields; with enforceSchema, it ignores
        # headers that differ from that of the first file.
        strict = {"columnPruning": "false", "enforceSchema": "false"} if settings.format == "csv" else {}
        options = {**strict, **settings.options, "columnNameOfCorruptRecord": CORRUPT}
        return spark.read.format(settings.format).schema(schema).options(**options).load(paths)


def _load(spark: SparkSession, settings: InputSettings, paths: list[str]) -> DataFrame:
    options = dict(settings.options)
    if settings.format == "delta" and not {"versionasof", "timestampasof"} & {name.lower() for name in options}:
        version = Log(spark, paths[0]).version()
        options |= {"versionAsOf": version} if version >= 0 else {}
    reader = spark.read.format(settings.format).options(**options)
    reader = reader.schema(_declared_schema(settings)) if settings.schema else reader
    try:
        return reader.load(paths)
    except (SparkRuntimeException, Py4JJavaError) as error:  # some options are checked only when a file is opened
        if not settings.options or UNREADABLE.search(str(error)):
            raise
        reason = str(error.java_exception.getMessage()) if isinstance(error, Py4JJavaError) else str(error)
        raise MamdrError(f"input.options: Spark rejects them: {one_line(reason)[:200]}") from None


def _declared_schema(settings: InputSettings) -> T.StructType:
    """Parse `input.schema`, and check that a file of the format can have its columns."""
    text = one_line(settings.schema)[:200]
    try:
        schema = T.StructType.fromDDL(settings.schema)
    except PySparkException as error:
        raise MamdrError(
            f"input.schema: {text!r} is not Spark DDL, such as 'user string, ts timestamp' "
            f"({one_line(str(error))[:200]})"
        ) from None
    if not isinstance(schema, T.StructType):  # DDL of a type alone
        raise MamdrError(f"input.schema: {text!r} names a type without a column, such as 'user string, ts timestamp'")
    repeated = [name for name, count in Counter(name.lower() for name in schema.names).items() if count > 1]
    if repeated or not schema.fields:
        raise MamdrError(f"input.schema: {text!r} declares {f'{repeated[0]} twice' if repeated else 'no column'}")
    for field in schema:
        if settings.format == "csv" and not isinstance(field.dataType, _IN_CSV):
            raise MamdrError(
                f"input.schema: CSV has no columns of type {field.dataType.simpleString()}; declare {field.name} string"
            )
    return schema


def _check_columns(spark: SparkSession, settings: InputSettings, raw: DataFrame) -> None:
    """Check that Parquet files have the declared columns, since Spark would read nulls otherwise.

    Footers of at most `CHECKED_FOOTERS` files are read until all columns are found. A column that none of them has is
    an error if they are all the files, and a warning otherwise.
    """
    relation = raw._jdf.queryExecution().analyzed().collectLeaves().head().relation()
    files = _listed_files(relation)
    sensitive = str(spark.conf.get("spark.sql.caseSensitive")) == "true"
    same: Callable[[str], str] = str if sensitive else str.lower
    missing = {same(name): name for name in raw.columns}
    for name in relation.partitionSchema().fieldNames():
        missing.pop(same(name), None)
    step = -(-len(files) // CHECKED_FOOTERS) if files else 1
    checked = files[::step]
    for status in checked:
        file = java_class(spark, "org.apache.parquet.hadoop.util.HadoopInputFile").fromStatus(
            status, spark._jsc.hadoopConfiguration()
        )
        with closing(java_class(spark, "org.apache.parquet.hadoop.ParquetFileReader").open(file)) as reader:
            fields = reader.getFooter().getFileMetaData().getSchema().getFields()
            for field in fields:
                missing.pop(same(field.getName()), None)
        if not missing:
            return
    if not files:
        return
    names = ", ".join(missing.values())
    if step == 1:
        raise MamdrError(
            f"input.schema: no file of {one_line(settings.path)} has a column {names}; its last one has "
            f"{', '.join(field.getName() for field in fields)}"
        )
    logger.warning("input.schema: none of the %d files that were checked has a column %s", len(checked), names)


def _listed_files(relation: Any) -> list[Any]:
    """The files of a relation as FileStatus objects of Hadoop."""
    files = relation.location().allFiles()
    return [files.apply(number) for number in range(files.size())]


def state_of(spark: SparkSession, settings: InputSettings) -> str:
    """A text that changes with the files of a log: the Delta version, or a hash of paths, sizes and times."""
    if settings.format == "delta":
        return f"version {Log(spark, settings.path).version()}"
    with readable(settings):
        raw = spark.read.format("binaryFile").load(settings.path)
        statuses = _listed_files(raw._jdf.queryExecution().analyzed().collectLeaves().head().relation())
    listed = sorted(f"{each.getPath().toString()} {each.getLen()} {each.getModificationTime()}" for each in statuses)
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def kind_of(raw: DataFrame, column: Column) -> T.DataType:
    """The type of an expression over `raw`."""
    return raw.select(column).schema[0].dataType


def as_id(raw: DataFrame, key: str, column: Column) -> Column:
    """Cast a column of ids to text.

    Raises:
        MamdrError: the ids are of a fractional type.
    """
    kind = kind_of(raw, column)
    if isinstance(kind, T.FractionalType) and not (isinstance(kind, T.DecimalType) and not kind.scale):
        raise MamdrError(
            f"{key} is of type {kind.simpleString()}, so that the id 123 would become '123.0'; write "
            "try_cast(<expression> as bigint)"
        )
    return column.cast("string")


def raw_columns(raw: DataFrame) -> list[str]:
    """The columns of the log, without CORRUPT."""
    return [name for name in raw.columns if name != CORRUPT]


def malformed_line(raw: DataFrame) -> Column:
    """The text of a malformed line, null for a complete record or if the format has no lines."""
    return F.col(CORRUPT) if CORRUPT in raw.columns else F.lit(None).cast("string")


def undeclared_columns(raw: DataFrame, used: Sequence[Column]) -> list[str]:
    """The log's columns that none of the resolved expressions uses, sorted, without partition columns."""
    leaf = raw._jdf.queryExecution().analyzed().collectLeaves().head()
    partitions = set(leaf.relation().partitionSchema().fieldNames())
    return sorted(set(raw_columns(raw)) - set(columns_of(raw, used)) - partitions)


def columns_of(raw: DataFrame, used: Sequence[Column]) -> list[str]:
    """The log's columns that resolved expressions use, sorted."""
    references = raw.select(*used)._jdf.queryExecution().analyzed().references().toSeq()
    seen = {references.apply(number).name() for number in range(references.size())}
    return sorted(seen & set(raw_columns(raw)))


def lacks_columns(raw: DataFrame, expression: str) -> bool:
    """Whether an expression names a column that the log does not have."""
    try:
        analyzed = raw.select(F.expr(expression))._jdf.queryExecution().analyzed()
    except PySparkException as error:
        return "UNRESOLVED_COLUMN" in str(error)
    return _NO_USER in str(analyzed.toString())


def resolve(raw: DataFrame, key: str, expression: str) -> Column:
    """Resolve a configured expression, in Spark SQL, over the log; `key` is its config key, for the error message.

    Raises:
        MamdrError: the expression cannot be parsed, names a missing column, or does not give one value for each row.
    """
    try:
        selected = raw.select(F.expr(expression))
        analyzed = selected._jdf.queryExecution().analyzed()
    except PySparkException as error:
        reason = "cannot be parsed" if "PARSE_SYNTAX_ERROR" in str(error) else _reason(error)
    else:
        if _NO_USER in str(analyzed.toString()):
            reason = "names no existing column: user"
        elif len(selected.columns) != 1 or not _is_by_row(raw, analyzed):
            reason = "does not give one value for each row"
        else:
            return F.expr(expression)
    names = raw_columns(raw)
    raise MamdrError(f"{key}: {expression!r} {reason}; columns of the log: {', '.join(names)}{_hint(names)}") from None


def _hint(names: Sequence[str]) -> str:
    """A hint at a missing option of CSV, derived from the column names; empty: none."""
    if all(_UNNAMED.fullmatch(name) for name in names):
        return "; they have no names: if the first line holds them, set input.options.header: true"
    if len(names) == 1 and (found := _SEPARATOR.search(names[0])):
        return f"; if {found.group()!r} separates the fields, set input.options.sep: {found.group()!r}"
    return ""


def _is_by_row(raw: DataFrame, analyzed: Any) -> bool:
    """Whether a selection is a plain projection, without aggregates, window functions or generators."""
    child = analyzed.children().head()
    below = raw._jdf.queryExecution().analyzed().nodeName()
    return str(analyzed.nodeName()) == "Project" and child.nodeName() == below


def _reason(error: PySparkException) -> str:
    unresolved = re.search(r"UNRESOLVED_\w+[^`]*`([^`]+(?:`\.`[^`]+)*)`", str(error))
    if "UNRESOLVED_COLUMN" in str(error) and unresolved:
        return f"names no existing column: {unresolved.group(1)}"
    return f"is not valid: {str(error).splitlines()[0]}"
