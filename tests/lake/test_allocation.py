"""What is divided adds up, and running totals do not depend on how they are summed."""

import pytest
from pyspark.sql import functions as F

from mamdr_core.lake.examples.allocation import running_total, share


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 3])
def test_a_running_total_is_the_sum_before(spark, parts):
    rows = spark.createDataFrame(
        [(d, d * 100 + n, n + 1) for d in range(2) for n in range(20)], "domain int, id int, weight int"
    )
    rows = rows.withColumn("order", F.xxhash64("id")).withColumn("parts", F.lit(parts))
    for domain in range(2):
        totals = running_total(rows, "order", "weight", "before").where(F.col("domain") == domain)
        expected = 0
        for row in sorted(totals.collect(), key=lambda row: row["order"] % 2**64):
            assert row["before"] == expected
            expected += row["weight"]
        assert expected == 210


@pytest.mark.slow
def test_shares_of_ten_million_users_times_a_million_items_add_up(spark):
    """Products of weights and amounts are beyond 2^63."""
    weights = [10**13 // 3, 7, 10**13 - 10**13 // 3 - 7]
    before = [0, weights[0], weights[0] + 7]
    rows = spark.createDataFrame(list(zip(before, weights, strict=True)), "before long, weight long")
    whole, amount = F.lit(10**13), F.lit(9 * 10**12 + 1)
    shares = [row[0] for row in rows.select(share(F.col("before"), F.col("weight"), whole, amount)).collect()]
    after = [int(b + w) * (9 * 10**12 + 1) // 10**13 for b, w in zip(before, weights, strict=True)]
    assert shares == [after[0], after[1] - after[0], after[2] - after[1]]
    assert sum(shares) == 9 * 10**12 + 1
