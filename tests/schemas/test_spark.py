"""Spark schemas follow the declarations."""

from pyspark.sql import types as T

from schemas import TABLES, Column, DeclaredTable
from schemas.spark import spark_schema


def test_every_type_becomes_sparks():
    columns = (
        Column("a", "string", "A", nullable=True),
        Column("b", "array<float>", "B"),
        Column("c", "map<string,bigint>", "C"),
    )
    assert spark_schema(DeclaredTable("t", "", columns)) == T.StructType(
        [
            T.StructField("a", T.StringType(), True, {"comment": "A"}),
            T.StructField("b", T.ArrayType(T.FloatType()), False, {"comment": "B"}),
            T.StructField("c", T.MapType(T.StringType(), T.LongType()), False, {"comment": "C"}),
        ]
    )


def test_every_declared_table_has_a_spark_schema():
    for table in TABLES.values():
        assert tuple(spark_schema(table).names) == table.column_names
