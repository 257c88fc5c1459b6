"""Reading the raw log: whatever Spark reads, with a clear error where it cannot."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException, SparkRuntimeException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config.lake import InputSettings
from mamdr_core.config.yaml_values import one_line
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.log import Log
from mamdr_core.lake.core.unreadable import UNREADABLE, readable
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)

_UNNAMED, _SEPARATOR = re.compile(r"_c\d+"), re.compile(r"[;\t|,]")
_GLOB = re.compile(r"[*?{\[]")
# Spark takes the word `user` for the account that runs the job where the log has no such column.
_NO_USER = "current_user()"
_OF_LINES = ("csv", "json")
_IN_CSV = (T.StringType, T.NumericType, T.BooleanType, T.DateType, T.TimestampType, T.TimestampNTZType)
CHECKED_FOOTERS = 20
"""Parquet files at most whose columns are compared with `input.schema`."""
CORRUPT = "_corrupt_record"
"""The column that holds a line that is not a whole record; null for one that is."""


def read_input(spark: SparkSession, settings: InputSettings, schema: T.StructType | None = None) -> DataFrame:
    """The raw log as it is; of CSV and JSON also the column CORRUPT, the line where that is not a whole record.

    A Delta table is read at its present version, in every scan of what is returned.

    Args:
        spark: the session.
        settings: of the log.
        schema: of CSV or JSON that has been read before, with CORRUPT; None: it is inferred.

    Raises:
        MamdrError: `input.path` is empty or matches nothing, or holds nothing in the declared format, or an option
            would lose rows uncounted; `input.schema` is not DDL.
    """
    if not settings.path:
        raise MamdrError("input.path is not set: name the file, folder or glob of the raw log")
    # Spark logs a stack trace for a glob, which it first takes for a folder; so globs are expanded here.
    files = Files(spark, settings.path)
    paths = files.matches() if _GLOB.search(settings.path) else [settings.path]
    if not paths:
        raise MamdrError(f"input.path: {one_line(settings.path)} matches nothing")
    if any(key.lower() == "mode" and str(value).upper() == "DROPMALFORMED" for key, value in settings.options.items()):
        raise MamdrError(
            "input.options.mode: DROPMALFORMED loses rows uncounted; leave it out, and they are kept apart"
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
        # With pruned columns Spark takes a line of too few or too many fields for whole; with enforceSchema it reads a
        # file whose header differs from the first file's as if it did not.
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
    except (SparkRuntimeException, Py4JJavaError) as error:  # some options are not checked before a file is looked at
        if not settings.options or UNREADABLE.search(str(error)):
            raise
        told = str(error.java_exception.getMessage()) if isinstance(error, Py4JJavaError) else str(error)
        raise MamdrError(f"input.options: Spark does not take them: {one_line(told)[:200]}") from None


def _declared_schema(settings: InputSettings) -> T.StructType:
    """`input.schema`, which must name columns that a file of the format can have."""
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
    """Refuse a declared column that none of the Parquet files has, by their footers: Spark would read nulls.

    Footers are read until all columns are found; a column that is in none of `CHECKED_FOOTERS` of more files may be in
    another one.
    """
    relation = raw._jdf.queryExecution().analyzed().collectLeaves().head().relation()
    files = _listed_files(relation)
    sensitive = str(spark.conf.get("spark.sql.caseSensitive")) == "true"
    same: Callable[[str], str] = str if sensitive else str.lower
    missing = {same(name): name for name in raw.columns}
    for name in relation.partitionSchema().fieldNames():
        missing.pop(same(name), None)
    jvm: Any = spark._jvm
    footers = jvm.org.apache.parquet.hadoop
    step = -(-len(files) // CHECKED_FOOTERS) if files else 1
    looked_at = files[::step]
    for status in looked_at:
        file = footers.util.HadoopInputFile.fromStatus(status, spark._jsc.hadoopConfiguration())
        reader = footers.ParquetFileReader.open(file)
        try:
            fields = reader.getFooter().getFileMetaData().getSchema().getFields()
            for field in fields:
                missing.pop(same(field.getName()), None)
        finally:
            reader.close()
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
    logger.warning("input.schema: none of %d files that were looked at has a column %s", len(looked_at), names)


def _listed_files(relation: Any) -> list[Any]:
    """The statuses of a relation's files, as Hadoop has them."""
    files = relation.location().allFiles()
    return [files.apply(number) for number in range(files.size())]


def state_of(spark: SparkSession, settings: InputSettings) -> str:
    """A text that changes when a log's files do, without reading them: a Delta version, or paths, sizes and times."""
    if settings.format == "delta":
        return f"version {Log(spark, settings.path).version()}"
    with readable(settings):
        raw = spark.read.format("binaryFile").load(settings.path)
        statuses = _listed_files(raw._jdf.queryExecution().analyzed().collectLeaves().head().relation())
    listed = sorted(f"{each.getPath().toString()} {each.getLen()} {each.getModificationTime()}" for each in statuses)
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def kind_of(raw: DataFrame, column: Column) -> T.DataType:
    """The type that a column of `raw` has."""
    return raw.select(column).schema[0].dataType


def as_id(raw: DataFrame, key: str, column: Column) -> Column:
    """A column of ids as text.

    Args:
        raw: has the column.
        key: where it was configured, for the error.
        column: the ids.

    Raises:
        MamdrError: they are fractions.
    """
    kind = kind_of(raw, column)
    if isinstance(kind, T.FractionalType) and not (isinstance(kind, T.DecimalType) and not kind.scale):
        raise MamdrError(
            f"{key} is of type {kind.simpleString()}, so that the id 123 would become '123.0'; write "
            "try_cast(<expression> as bigint)"
        )
    return column.cast("string")


def raw_columns(raw: DataFrame) -> list[str]:
    """The columns of the log itself."""
    return [name for name in raw.columns if name != CORRUPT]


def undeclared_columns(raw: DataFrame, used: Sequence[Column]) -> list[str]:
    """The log's columns that none of the resolved expressions uses, sorted; partition columns do not count."""
    leaf = raw._jdf.queryExecution().analyzed().collectLeaves().head()
    partitions = set(leaf.relation().partitionSchema().fieldNames())
    return sorted(set(raw_columns(raw)) - set(columns_of(raw, used)) - partitions)


def columns_of(raw: DataFrame, used: Sequence[Column]) -> list[str]:
    """The log's columns that some resolved expressions use, sorted."""
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
    """A configured expression as a column of `raw`.

    Args:
        raw: the raw log.
        key: the config key, for the error.
        expression: Spark SQL.

    Raises:
        MamdrError: it cannot be parsed, names a column that does not exist, or gives other than one value a row.
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
    """What the names of a CSV log's columns say of options that are missing."""
    if all(_UNNAMED.fullmatch(name) for name in names):
        return "; they have no names: if the first line holds them, set input.options.header: true"
    if len(names) == 1 and (found := _SEPARATOR.search(names[0])):
        return f"; if {found.group()!r} separates the fields, set input.options.sep: {found.group()!r}"
    return ""


def _is_by_row(raw: DataFrame, analyzed: Any) -> bool:
    """Whether a selection neither groups, nor looks at other rows, nor makes more of them."""
    child = analyzed.children().head()
    below = raw._jdf.queryExecution().analyzed().nodeName()
    return str(analyzed.nodeName()) == "Project" and child.nodeName() == below


def _reason(error: PySparkException) -> str:
    unresolved = re.search(r"UNRESOLVED_\w+[^`]*`([^`]+(?:`\.`[^`]+)*)`", str(error))
    if "UNRESOLVED_COLUMN" in str(error) and unresolved:
        return f"names no existing column: {unresolved.group(1)}"
    return f"is not valid: {str(error).splitlines()[0]}"
