"""Domain statistics by day, against hand-counted figures."""

import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from mamdr_core.errors import MamdrError
from mamdr_core.lake.stats import domain_stats, summarize_domains
from mamdr_core.lake.tables import Lake

pytestmark = pytest.mark.slow

DAY_1, DAY_2, DAY_4 = "2026-01-01", "2026-01-02", "2026-01-04"


@pytest.fixture
def clicks(make_clicks):
    return make_clicks(
        [
            ("u1", "i1", "a", 1, DAY_1),
            ("u1", "i2", "a", 0, DAY_1),
            ("u2", "i1", "a", 0, DAY_1),
            ("u2", "i3", "a", 0, DAY_1),
            ("u1", "i3", "b", 1, DAY_1),
            ("u1", "i1", "a", 1, DAY_2),
            ("u1", "i1", "a", 0, DAY_2),
            ("u3", "i1", "a", 1, DAY_4),
        ]
    )


def test_figures_are_those_counted_by_hand(spark, clicks):
    rows = [
        (DAY_1, "a", 4, 1, 0.25, 2, 3, 1 / 2, 1 / 3, None, None),
        (DAY_1, "b", 1, 1, 1.0, 1, 1, 1.0, 1.0, None, None),
        (DAY_2, "a", 2, 1, 0.5, 1, 1, 0.0, 0.0, 0.5, 0.25),
        (DAY_4, "a", 1, 1, 1.0, 1, 1, 0.0, 0.0, None, None),
    ]
    schema = (
        "ds string, domain string, rows bigint, clicks bigint, ctr double, users bigint, items bigint, "
        "shared_users double, shared_items double, rows_ratio double, ctr_difference double"
    )
    expected = spark.createDataFrame(rows, schema)
    assertDataFrameEqual(summarize_domains(clicks).withColumn("ds", F.col("ds").cast("string")), expected)


def test_all_days_or_one_are_replaced(spark, clicks, make_config, lake_root):
    lake = Lake(spark, lake_root)
    lake.overwrite("clicks", clicks)
    assert domain_stats(spark, make_config()) == {
        "days": 3,
        "rows": 4,
        "clicks_version": 1,
        "domain_stats_version": 1,
    }
    lake.overwrite("clicks", clicks.where("domain = 'a'"))
    figures = domain_stats(spark, make_config(stats={"ds": DAY_2}))
    assert (figures["days"], figures["rows"]) == (1, 1)
    assertDataFrameEqual(lake.read("domain_stats"), lake.read("domain_stats", 1))


def test_a_day_without_clicks_is_an_error_and_changes_nothing(spark, clicks, make_config, lake_root):
    Lake(spark, lake_root).overwrite("clicks", clicks)
    with pytest.raises(MamdrError, match=r"holds no row of 2026-01-03 \(stats.ds\)"):
        domain_stats(spark, make_config(stats={"ds": "2026-01-03"}))
    assert not Lake(spark, lake_root).exists("domain_stats")
