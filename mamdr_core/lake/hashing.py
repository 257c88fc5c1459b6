"""Decisions by hash: what a row becomes depends on its keys and the seed, never on row order or partitions."""

from pyspark.sql import Column
from pyspark.sql import functions as F

_BITS = 53


def hash64(*parts: Column | int | str) -> Column:
    """A 64-bit hash of columns and constants, bigint; the first part names the decision, to keep decisions apart."""
    return F.xxhash64(*(part if isinstance(part, Column) else F.lit(part) for part in parts))


def uniform(hashed: Column) -> Column:
    """A hash as a number in [0, 1), double."""
    return F.shiftrightunsigned(hashed, 64 - _BITS) / F.lit(float(2**_BITS))


def bucket(hashed: Column, count: Column | int) -> Column:
    """A hash as a bucket 0..count-1, int, rising with `uniform(hashed)`: buckets are ranges of the hash's order."""
    return F.floor(uniform(hashed) * count).cast("int")
