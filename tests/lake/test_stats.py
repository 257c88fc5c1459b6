"""Domain statistics by day, against hand-counted figures."""

import math
import random
from datetime import date
from functools import reduce

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.stats import domain_stats, summarize_domains
from mamdr_core.runtime.errors import MamdrError
from tests.lake.stored import rows_of, sorted_rows, stored, write_clicks

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

DAY_1, DAY_2, DAY_4 = "2026-01-01", "2026-01-02", "2026-01-04"
INTERVALS = {
    "none": (0, 20, 0.0, 0.1611),
    "all": (20, 20, 0.8389, 1.0),
    "some": (15, 148, 0.0624, 0.1605),
}
"""By domain: clicks, rows and the interval in Newcombe, Statistics in Medicine 17 (1998), Table I, method 3."""


CLICKS = [
    ("u1", "i1", "a", 1, DAY_1),
    ("u1", "i2", "a", 0, DAY_1),
    ("u2", "i1", "a", 0, DAY_1),
    ("u2", "i3", "a", 0, DAY_1),
    ("u1", "i3", "b", 1, DAY_1),
    ("u1", "i1", "a", 1, DAY_2),
    ("u4", "i1", "a", 0, DAY_2),
    ("u3", "i1", "a", 1, DAY_4),
    ("u4", "i1", "b", 1, DAY_4),
]


@pytest.fixture
def clicks(make_clicks):
    return make_clicks(CLICKS)


def replace_day(root, day, rows):
    write_clicks(root, rows, replaced=lambda added: added["partitionValues"]["ds"] == day)


def by_day(rows):
    """Rows by day and domain, as dictionaries."""
    return {(str(row["ds"]), row["domain"]): row for row in rows}


def in_days(frame):
    return by_day(frame.toArrow().to_pylist())


def test_figures_are_those_counted_by_hand(clicks):
    names = ("rows", "clicks", "ctr", "users", "items", "shared_users", "shared_items", "new_users")
    found = {key: tuple(row[name] for name in names) for key, row in in_days(summarize_domains(clicks)).items()}
    assert found == {
        (DAY_1, "a"): (4, 1, 0.25, 2, 3, 1 / 2, 1 / 3, 2),
        (DAY_1, "b"): (1, 1, 1.0, 1, 1, 1.0, 1.0, 1),
        (DAY_2, "a"): (2, 1, 0.5, 2, 1, 0.0, 0.0, 1),
        (DAY_4, "a"): (1, 1, 1.0, 1, 1, 0.0, 1.0, 1),
        (DAY_4, "b"): (1, 1, 1.0, 1, 1, 0.0, 1.0, 0),
    }


def test_a_day_is_compared_with_the_day_before_and_with_the_week(clicks):
    found = in_days(summarize_domains(clicks))
    day = {key: (row["rows_ratio"], row["ctr_difference"]) for key, row in found.items()}
    assert day[DAY_2, "a"] == (0.5, 0.25)
    assert {day[key] for key in day if key != (DAY_2, "a")} == {(None, None)}
    week = {key: (row["week_rows_ratio"], row["week_ctr_difference"]) for key, row in found.items()}
    assert week == {
        (DAY_1, "a"): (None, None),
        (DAY_1, "b"): (None, None),
        (DAY_2, "a"): (0.5, 0.25),
        (DAY_4, "a"): (1 / 3, 1 - 2 / 6),
        (DAY_4, "b"): (1.0, 0.0),
    }
    pooled = 3 / 7
    error = math.sqrt(pooled * (1 - pooled) * (1 / 1 + 1 / 6))
    assert found[DAY_4, "a"]["week_ctr_z"] == pytest.approx((1 - 2 / 6) / error, rel=1e-12)
    assert found[DAY_4, "b"]["week_ctr_z"] is None, "both CTRs are 1: there is no spread to measure in"


def test_the_week_ends_seven_days_before(make_clicks):
    rows = [("u", "i", "a", 1, f"2026-01-{day:02d}") for day in (1, 2, 8, 9)]
    found = in_days(summarize_domains(make_clicks([*rows, ("u", "j", "a", 0, "2026-01-01")])))
    assert found["2026-01-08", "a"]["week_ctr_difference"] == pytest.approx(1 - 2 / 3)
    assert found["2026-01-09", "a"]["week_ctr_difference"] == 0.0


def test_the_interval_is_wilsons(spark):
    rows = [("u", "i", domain, int(n < case[0])) for domain, case in INTERVALS.items() for n in range(case[1])]
    frame = spark.createDataFrame(rows, "user string, item string, domain string, label int").selectExpr(
        "*", "DATE'2026-01-01' ds"
    )
    found = {row["domain"]: (row["ctr_low"], row["ctr_high"]) for row in summarize_domains(frame).collect()}
    assert found == {domain: pytest.approx(case[2:], abs=5e-5) for domain, case in INTERVALS.items()}
    assert (found["none"][0], found["all"][1]) == (0.0, 1.0)


def test_all_days_or_one_are_replaced(spark, make_config, lake_root):
    write_clicks(lake_root, CLICKS)
    assert domain_stats(spark, make_config()) == {
        "days": 3,
        "rows": 5,
        "clicks_version": 0,
        "domain_stats_version": 0,
    }
    write_clicks(lake_root, [row for row in CLICKS if row[2] == "a"])
    figures = domain_stats(spark, make_config(stats={"ds": DAY_2}))
    assert (figures["days"], figures["rows"]) == (1, 1)
    assert sorted_rows(stored(lake_root, "domain_stats")) == sorted_rows(stored(lake_root, "domain_stats", 0))


def many_clicks():
    """300 rows of 40 users, 30 items and 4 domains on five days of eleven."""
    draw = random.Random(0)
    days = (1, 2, 3, 5, 11)
    return [
        (
            f"u{draw.randrange(40)}",
            f"i{draw.randrange(30)}",
            f"d{min(draw.randrange(8), 3)}",
            int(draw.random() < 0.2),
            day,
        )
        for day in (f"2026-01-{draw.choice(days):02d}" for _ in range(300))
    ]


def test_running_day_by_day_gives_what_one_run_gives(make_clicks):
    rows = make_clicks(many_clicks()).cache()
    days = sorted({date.fromisoformat(row[4]) for row in many_clicks()})
    daily = [summarize_domains(rows.where(F.col("ds") <= day), day) for day in days]
    assert len(days) == 5
    assert in_days(reduce(DataFrame.unionByName, daily)) == in_days(summarize_domains(rows))


def test_late_rows_and_a_rerun_change_exactly_that_day(spark, make_config, lake_root):
    write_clicks(lake_root, many_clicks())
    domain_stats(spark, make_config())
    before = by_day(rows_of(lake_root, "domain_stats"))
    late = [("late", "i1", "d1", 1, "2026-01-05"), ("late", "i1", "new", 1, "2026-01-05")]
    write_clicks(lake_root, late, replaced=lambda _: False)
    domain_stats(spark, make_config(stats={"ds": "2026-01-05"}))
    after = by_day(rows_of(lake_root, "domain_stats"))
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {("2026-01-05", "d1"), ("2026-01-05", "new")}
    assert after["2026-01-05", "d1"]["new_users"] == before["2026-01-05", "d1"]["new_users"] + 1
    assert after["2026-01-05", "d1"]["rows"] == before["2026-01-05", "d1"]["rows"] + 1
    assert after["2026-01-05", "new"]["shared_users"] == 1.0


def test_a_domain_that_was_renamed_to_another_leaves_no_line(spark, make_config, lake_root):
    """The domain b is now a: its rows of a day that is loaded again are a's, and its earlier days stay its own."""
    first = [("u1", "i1", "a", 1, DAY_1), ("u2", "i1", "b", 0, DAY_1), ("u2", "i2", "b", 0, DAY_1)]
    second = [(user, item, domain, label, DAY_2) for user, item, domain, label, _ in first]
    write_clicks(lake_root, [*first, *second])
    domain_stats(spark, make_config())
    replace_day(lake_root, DAY_2, [(user, item, "a", label, day) for user, item, _, label, day in second])
    domain_stats(spark, make_config(stats={"ds": DAY_2}))
    found = by_day(rows_of(lake_root, "domain_stats"))
    assert set(found) == {(DAY_1, "a"), (DAY_1, "b"), (DAY_2, "a")}
    names = ("rows", "clicks", "users", "shared_users", "new_users", "rows_ratio")
    assert [found[DAY_2, "a"][name] for name in names] == [3, 1, 2, 0.0, 0, 3.0]


def test_a_day_with_one_domain_shares_nothing(make_clicks):
    found = in_days(summarize_domains(make_clicks([("u1", "i1", "a", 1), ("u2", "i1", "a", 0), ("u1", "i2", "a", 0)])))
    names = ("rows", "users", "items", "shared_users", "shared_items", "new_users")
    assert [found[DAY_1, "a"][name] for name in names] == [3, 2, 2, 0.0, 0.0, 2]


def test_a_day_that_lost_its_clicks_loses_its_statistics(spark, make_config, lake_root):
    write_clicks(lake_root, CLICKS)
    domain_stats(spark, make_config())
    replace_day(lake_root, DAY_2, [])
    figures = domain_stats(spark, make_config(stats={"ds": DAY_2}))
    assert (figures["days"], figures["rows"]) == (0, 0)
    assert {day for day, _ in by_day(rows_of(lake_root, "domain_stats"))} == {DAY_1, DAY_4}
    with pytest.raises(MamdrError, match=r"holds no row of 2026-01-02"):
        domain_stats(spark, make_config(stats={"ds": DAY_2}))


def test_a_day_without_clicks_is_an_error_and_changes_nothing(spark, make_config, lake_root):
    write_clicks(lake_root, CLICKS)
    with pytest.raises(MamdrError, match=r"holds no row of 2026-01-03 \(stats.ds\)"):
        domain_stats(spark, make_config(stats={"ds": "2026-01-03"}))
    assert not Lake(spark, lake_root).exists("domain_stats")
