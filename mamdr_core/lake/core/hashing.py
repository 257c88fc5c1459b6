"""Decisions by hash: the result for a row depends on its keys and the seed, never on row order or partitions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F

_BITS = 53


def hash64(*parts: Column | int | str) -> Column:
    """A 64-bit hash of columns and constants, bigint; a constant as first part makes decisions independent."""
    return F.xxhash64(*(part if isinstance(part, Column) else F.lit(part) for part in parts))


def uniform(hashed: Column) -> Column:
    """A hash as a number in [0, 1), double."""
    return F.shiftrightunsigned(hashed, 64 - _BITS) / F.lit(float(2**_BITS))


def bucket(hashed: Column, count: Column | int) -> Column:
    """A hash as a bucket 0..count-1, int: buckets are consecutive ranges of `uniform(hashed)`."""
    return F.floor(uniform(hashed) * count).cast("int")


def partition_keys(count: int) -> list[int]:
    """For each of `count` partitions, the smallest int >= 0 that Spark's hash partitioning assigns to it.

    The numbers 0..count-1 themselves would collide and leave a third of the partitions empty.
    """
    keys = np.full(count, -1)
    first = 0
    while (keys < 0).any():
        tried = np.arange(first, first + 4 * count + 64)
        place, at = np.unique(_murmur3(tried.astype(np.uint32)) % count, return_index=True)
        fresh = keys[place] < 0
        keys[place[fresh]] = tried[at[fresh]]
        first = int(tried[-1]) + 1
    return [int(key) for key in keys]


def _murmur3(values: NDArray[np.uint32]) -> NDArray[Any]:
    """Spark's hash of ints for partitioning: MurmurHash3_x86_32 (Appleby 2011) of 4 bytes with seed 42."""
    with np.errstate(over="ignore"):
        mixed = _rotated(values * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
        hashed = _rotated(np.uint32(42) ^ mixed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
        hashed = (hashed ^ np.uint32(4)) ^ ((hashed ^ np.uint32(4)) >> np.uint32(16))
        hashed = hashed * np.uint32(0x85EBCA6B)
        hashed = (hashed ^ (hashed >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return (hashed ^ (hashed >> np.uint32(16))).astype(np.int32).astype(np.int64)


def _rotated(values: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return (values << np.uint32(bits)) | (values >> np.uint32(32 - bits))
