"""Walks meet every number once."""

from math import gcd

import pytest
from pyspark.sql import functions as F

from mamdr_core.lake.examples.walks import prime_steps, walk


@pytest.mark.slow
def test_a_walk_visits_every_number_once_and_a_short_one_is_its_beginning(spark):
    sizes = spark.range(1, 200).select(F.col("id").alias("size"), F.xxhash64("id").alias("who"))
    size = F.col("size")
    whole, short = (walk(3, F.col("who"), size=size, length=length) for length in (size, F.ceil(size / 3)))
    rows = sizes.select("size", whole.alias("whole"), short.alias("short")).collect()
    for row in rows:
        assert sorted(row["whole"]) == list(range(row["size"]))
        assert row["short"] == row["whole"][: -(-row["size"] // 3)]
    assert len({tuple(row["whole"][:3]) for row in rows}) > 150


def test_steps_are_distinct_primes_below_two_to_the_31():
    steps = prime_steps()
    assert steps[0] == 2**31 - 1
    assert len(set(steps)) == 256
    for step in steps[:3]:
        assert all(step % divisor for divisor in range(2, 46341))
    assert all(gcd(one, other) == 1 for one in steps[:20] for other in steps[20:40])
