"""Passes many numbers to a query as one constant."""

from array import array
from collections.abc import Iterable

from pyspark.sql import Column
from pyspark.sql import functions as F


def constants(numbers: Iterable[int]) -> Column:
    """At least one integer as a single constant, array<int>: Spark's planner would apply each rule to each of many.

    Raises:
        OverflowError: a number has more than 32 bits.
    """
    return F.split(F.lit(" ".join(map(str, array("i", numbers)))), " ").cast("array<int>")
