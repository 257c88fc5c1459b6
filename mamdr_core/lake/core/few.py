"""Few rows on one task: every shuffle is then skipped, and no small table is broadcast, which is a Spark job each."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from mamdr_core.lake.core.session import FEW


def is_few(spark: SparkSession) -> bool:
    """Whether the session has the settings for few rows."""
    return all(spark.conf.get(key, None) == str(value) for key, value in FEW.items())


def bytes_of(rows: DataFrame) -> int:
    """Bytes of the files that rows come from, of each as often as it is read."""
    leaves = rows._jdf.queryExecution().optimizedPlan().collectLeaves()
    return sum(int(leaves.apply(number).stats().sizeInBytes()) for number in range(leaves.size()))


def gathered(rows: DataFrame) -> DataFrame:
    """Rows on one task where the session has the settings for few rows; otherwise unchanged.

    Files are still read by several tasks. What follows, joins and groups and windows, is not shuffled again.
    """
    return rows.repartition(1) if is_few(rows.sparkSession) else rows


def small(rows: DataFrame) -> DataFrame:
    """The right side of a join, which fits into memory: broadcast, or gathered where the left side is (`gathered`)."""
    return gathered(rows).hint("shuffle_hash") if is_few(rows.sparkSession) else F.broadcast(rows)


def local_frame(spark: SparkSession, rows: Sequence[Sequence[Any]], schema: T.StructType | str) -> DataFrame:
    """Rows of the driver as a frame that is part of the query: reading it starts no job, and no worker of Python's.

    Args:
        spark: the session.
        rows: tuples in the order of the schema.
        schema: as a type or as DDL.
    """
    struct = T.StructType.fromDDL(schema) if isinstance(schema, str) else schema
    assert isinstance(struct, T.StructType)
    arrow = to_arrow_schema(struct)
    columns = [pa.array([row[place] for row in rows], field.type) for place, field in enumerate(arrow)]
    return spark.createDataFrame(pa.Table.from_arrays(columns, schema=arrow), struct)
