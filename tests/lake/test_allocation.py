"""What is divided adds up, and running totals do not depend on how they are summed."""

import pytest
from pyspark.sql import functions as F

from mamdr_core.lake.allocation import running_total


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
