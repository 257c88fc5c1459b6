"""Spark schemas of declared tables; the only module of schemas that needs Spark."""

from pyspark.sql import types as T

from schemas.declaration import ColumnType, DeclaredTable

_TYPES: dict[ColumnType, T.DataType] = {
    "string": T.StringType(),
    "int": T.IntegerType(),
    "bigint": T.LongType(),
    "float": T.FloatType(),
    "double": T.DoubleType(),
    "date": T.DateType(),
    "timestamp": T.TimestampType(),
    "boolean": T.BooleanType(),
    "array<float>": T.ArrayType(T.FloatType()),
    "array<int>": T.ArrayType(T.IntegerType()),
    "array<string>": T.ArrayType(T.StringType()),
    "map<string,bigint>": T.MapType(T.StringType(), T.LongType()),
    "map<string,double>": T.MapType(T.StringType(), T.DoubleType()),
    "map<string,string>": T.MapType(T.StringType(), T.StringType()),
}


def spark_schema(table: DeclaredTable) -> T.StructType:
    """The table's columns as a StructType, with descriptions as column comments.

    Example:
        >>> from schemas import TABLES
        >>> spark_schema(TABLES["users"]).simpleString()
        'struct<id:string,index:int,first_seen:date>'
    """
    return T.StructType(
        [
            T.StructField(column.name, _TYPES[column.type], column.nullable, {"comment": column.description})
            for column in table.columns
        ]
    )
