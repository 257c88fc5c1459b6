"""Splits are decided by the rows' own ids or days."""

from datetime import date

import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from mamdr_core.config.lake import SplitSettings
from mamdr_core.lake.examples.splits import split_column

pytestmark = pytest.mark.slow

HASHES = ("user_hash", "item_hash", "domain_hash")


@pytest.fixture
def rows(spark):
    return spark.range(20_000).select(
        "id", *(F.xxhash64("id", F.lit(name)).alias(name) for name in HASHES), F.lit(date(2026, 1, 1)).alias("ds")
    )


def shares(rows, settings, seed=0, domain_rows=1000):
    split = split_column(settings, seed, F.lit(domain_rows))
    counted = rows.groupBy(split.alias("split")).count().collect()
    total = sum(row["count"] for row in counted)
    return {row["split"]: row["count"] / total for row in counted}


def test_fractions_are_met(rows):
    assert shares(rows, SplitSettings()) == pytest.approx({"train": 0.6, "val": 0.2, "test": 0.2}, abs=0.015)


def test_a_fraction_of_zero_gets_no_row(rows):
    assert shares(rows, SplitSettings(fractions=(0.8, 0.2, 0.0))) == pytest.approx(
        {"train": 0.8, "val": 0.2}, abs=0.015
    )
    assert shares(rows, SplitSettings(fractions=(1.0, 0.0, 0.0))) == {"train": 1.0}


def test_a_tiny_domain_is_all_train(rows):
    assert shares(rows, SplitSettings(smallest_domain=10), domain_rows=9) == {"train": 1.0}
    assert len(shares(rows, SplitSettings(smallest_domain=10), domain_rows=10)) == 3


def test_partitions_and_order_change_nothing_and_the_seed_does(rows):
    def split(frame, seed=0):
        return frame.select("id", split_column(SplitSettings(), seed, F.lit(1000)).alias("split"))

    assertDataFrameEqual(split(rows), split(rows.orderBy(F.desc("id")).repartition(7)))
    moved = split(rows).join(split(rows, seed=1).withColumnRenamed("split", "other"), "id").where("split <> other")
    assert moved.count() > 8000


def test_a_time_split_goes_by_days(spark):
    days = spark.createDataFrame([(date(2026, 1, day),) for day in range(1, 6)], "ds date")
    settings = SplitSettings(kind="time", val_from=date(2026, 1, 3), test_from=date(2026, 1, 5))
    found = days.orderBy("ds").select(split_column(settings, 0, F.lit(1))).collect()
    assert [row[0] for row in found] == ["train", "train", "val", "val", "test"]
