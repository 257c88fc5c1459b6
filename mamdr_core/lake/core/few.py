"""Processes few rows in one task, which avoids shuffles and broadcasts: each of them would be a Spark job."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from mamdr_core.lake.core.session import FEW
from schemas import TABLES
from schemas.spark import spark_schema


def is_few(spark: SparkSession) -> bool:
    """Whether the session has the settings for few rows."""
    return all(spark.conf.get(key, None) == str(value) for key, value in FEW.items())


def bytes_of(rows: DataFrame) -> int:
    """Total size in bytes of the files that a frame reads, counted once per scan."""
    leaves = rows._jdf.queryExecution().optimizedPlan().collectLeaves()
    return sum(int(leaves.apply(number).stats().sizeInBytes()) for number in range(leaves.size()))


def gathered(rows: DataFrame) -> DataFrame:
    """Bring rows to one task if the session has the settings for few rows; otherwise leave them unchanged.

    Files are still read by several tasks, but subsequent joins, groups and windows need no shuffle.
    """
    return rows.repartition(1) if is_few(rows.sparkSession) else rows


def small(rows: DataFrame) -> DataFrame:
    """The right side of a join that fits into memory: broadcast, or on one task if the left side is (`gathered`)."""
    return gathered(rows).hint("shuffle_hash") if is_few(rows.sparkSession) else F.broadcast(rows)


def local_frame(spark: SparkSession, rows: Sequence[Sequence[Any]], schema: T.StructType | str) -> DataFrame:
    """A frame of rows of the driver that is part of the query plan: it needs neither a job nor a Python worker.

    Args:
        rows: tuples in the order of the schema.
        schema: type or DDL.
    """
    struct = T.StructType.fromDDL(schema) if isinstance(schema, str) else schema
    assert isinstance(struct, T.StructType)
    arrow = to_arrow_schema(struct)
    columns = [pa.array([row[place] for row in rows], field.type) for place, field in enumerate(arrow)]
    return spark.createDataFrame(pa.Table.from_arrays(columns, schema=arrow), struct)


def declared_frame(spark: SparkSession, table: str, rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """`local_frame` for a table of schemas/, of rows by column.

    Columns that a row lacks are null, and keys without a column are left out, since runs and comparisons have more
    figures than their tables.
    """
    names = TABLES[table].column_names
    return local_frame(spark, [tuple(map(row.get, names)) for row in rows], spark_schema(TABLES[table]))
