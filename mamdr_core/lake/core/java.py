"""Java classes of the JVM that runs Spark, each looked up once.

To look up a name, py4j searches every JAR on the class path for a class of that name in each imported package, which
takes a millisecond, and repeats this for every part of `jvm.org.apache.spark...`. PySpark does so for each Column.
"""

from typing import Any

from pyspark.sql import SparkSession

OF_COLUMNS = ("functions", "org.apache.spark.sql.functions", "PythonUtils", "PythonSQLUtils")
"""What PySpark looks up for each Column."""


def java_class(spark: SparkSession, name: str) -> Any:
    """The class with a full name, such as `org.apache.hadoop.fs.Path`."""
    jvm = spark._jvm
    if name not in vars(jvm):
        setattr(jvm, name, getattr(jvm, name))  # the view has no attributes of its own, so py4j asks the JVM each time
    return vars(jvm)[name]
