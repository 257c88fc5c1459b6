"""Reads the stages of a session from the store behind Spark's UI."""

from collections.abc import Sequence
from typing import Any

from pyspark.sql import SparkSession


def stages_of(spark: SparkSession) -> list[Any]:
    """The stages so far (org.apache.spark.status.api.v1.StageData), in their order."""
    jvm: Any = spark._jvm
    none = jvm.java.util.ArrayList()
    found = store_of(spark).stageList(none, False, False, doubles(spark, ()), none)
    return sorted((found.apply(number) for number in range(found.size())), key=lambda stage: stage.stageId())


def store_of(spark: SparkSession) -> Any:
    """The store (org.apache.spark.status.AppStatusStore)."""
    context: Any = spark._jsc
    return context.sc().statusStore()


def doubles(spark: SparkSession, values: Sequence[float]) -> Any:
    """Values as an array of the JVM's."""
    gateway: Any = spark.sparkContext._gateway
    made = gateway.new_array(gateway.jvm.double, len(values))
    for place, value in enumerate(values):
        made[place] = value
    return made
