"""Counts the calls of the driver's Python to the JVM."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.classic.dataframe import DataFrame


@contextmanager
def counting(spark: SparkSession) -> Iterator[Counter[str]]:
    """Counts `calls` to the JVM and `rows` that are collected while it is open."""
    counts = Counter[str]()
    client, collect = type(spark.sparkContext._gateway._gateway_client), DataFrame.collect
    send = client.send_command

    def counted(self: Any, command: str, *args: Any, **named: Any) -> Any:
        counts["calls"] += command.startswith("c\n")
        return send(self, command, *args, **named)

    def collected(self: DataFrame) -> Any:
        rows = collect(self)
        counts["rows"] += len(rows)
        return rows

    client.send_command, DataFrame.collect = counted, collected
    try:
        yield counts
    finally:
        client.send_command, DataFrame.collect = send, collect
