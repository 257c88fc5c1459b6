"""How many negatives a domain gets: by its ratio, as far as its users and items go."""

import pytest
from pyspark.sql import Row
from pyspark.sql import functions as F

from mamdr_core.lake.plans import DomainPlan, count_domains, plan_domains
from mamdr_core.lake.settings import ExamplesSettings, NegativeSettings


def settings(ratio):
    return ExamplesSettings(negatives=NegativeSettings(kind="in_domain", ctr_ratio=ratio))


def counted(domain=0, rows=100, users=50, items=40, drawn=0.5):
    return Row(domain=domain, rows=rows, users=users, items=items, drawn=drawn)


def test_a_log_with_impressions_needs_none():
    assert plan_domains([Row(domain=3, rows=7)], ExamplesSettings()) == [DomainPlan(3, clicks=7)]


@pytest.mark.parametrize(("ratio", "negatives"), [(0.25, 400), (0.3, 333), (2.0, 50)])
def test_a_fixed_ratio_is_positives_per_negative(ratio, negatives):
    assert plan_domains([counted()], settings(ratio))[0].negatives == negatives


@pytest.mark.parametrize(("drawn", "negatives"), [(0.0, 500), (0.5, 286), (1.0, 200)])
def test_a_range_is_drawn_from_evenly(drawn, negatives):
    assert plan_domains([counted(drawn=drawn)], settings((0.2, 0.5)))[0].negatives == negatives


def test_a_domain_that_cannot_give_enough_says_how_many_are_missing():
    plan = plan_domains([counted(rows=3, users=3, items=2)], settings(0.25))[0]
    assert (plan.negatives, plan.missing, plan.rows) == (3, 9, 6)


def test_a_domain_of_one_user_and_one_item_has_no_negative():
    plan = plan_domains([counted(rows=1, users=1, items=1)], settings(0.25))[0]
    assert (plan.negatives, plan.missing) == (0, 4)


@pytest.mark.slow
def test_users_items_and_rows_are_counted_and_the_draw_is_the_domains_own(spark):
    rows = spark.createDataFrame([(0, 1, 1), (0, 1, 2), (0, 2, 2), (1, 5, 5)], "domain int, user int, item int")
    rows = rows.withColumn("domain_hash", F.xxhash64("domain"))
    found = {row["domain"]: row for row in count_domains(rows, settings((0.2, 0.5)))}
    assert [found[0][name] for name in ("rows", "users", "items")] == [3, 2, 2]
    assert [found[1][name] for name in ("rows", "users", "items")] == [1, 1, 1]
    assert found[0]["drawn"] != found[1]["drawn"]
    assert all(0 <= row["drawn"] < 1 for row in found.values())
