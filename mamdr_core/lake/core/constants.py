"""Many numbers in a query."""

from array import array
from collections.abc import Iterable

from pyspark.sql import Column
from pyspark.sql import functions as F


def constants(numbers: Iterable[int]) -> Column:
    """Integers, at least one, as one constant, array<int>: single ones would each pass every rule of Spark's planner.

    Raises:
        OverflowError: a number has more than 32 bits.
    """
    return F.split(F.lit(" ".join(map(str, array("i", numbers)))), " ").cast("array<int>")
