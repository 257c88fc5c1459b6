"""How many negatives a domain gets: by its ratio, as far as its users and items go."""

import pytest
from pyspark.sql import Row
from pyspark.sql import functions as F

from mamdr_core.config.lake import ExamplesSettings, NegativeSettings
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.examples.plans import DomainPlan, check_ratios, count_domains, plan_domains, plan_impressions
from mamdr_core.runtime.errors import MamdrError


def settings(ratio):
    return ExamplesSettings(negatives=NegativeSettings(kind="in_domain", ctr_ratio=ratio))


def counted(ratio, domain=0, rows=100, users=50, items=40):
    return Row(domain=domain, rows=rows, users=users, items=items, ratio=ratio)


@pytest.fixture
def rows(spark):
    """Domain d0 with three pairs of two users and two items, d1 with one."""
    columns = "domain int, user_hash long, item_hash long"
    pairs = local_frame(spark, [(0, 1, 1), (0, 1, 2), (0, 2, 2), (1, 5, 5)], columns)
    return pairs.withColumn("domain_hash", hash64(F.format_string("d%s", "domain")))


def test_a_log_with_impressions_needs_none():
    seen = [Row(domain="d0", rows=7, positives=2), Row(domain="d1", rows=1, positives=1)]
    plans = plan_impressions(seen, {"d1": 0, "d0": 3, "gone": 1})
    assert plans == [DomainPlan(3, clicks=2, negatives=5), DomainPlan(0, clicks=1)]


@pytest.mark.parametrize(("ratio", "negatives"), [(0.25, 400), (0.3, 333), (0.35, 286), (2.0, 50)])
def test_a_ratio_is_positives_per_negative(ratio, negatives):
    assert plan_domains([counted(ratio)])[0].negatives == negatives


def test_a_domain_that_cannot_give_enough_states_how_many_are_missing():
    plan = plan_domains([counted(0.25, rows=3, users=3, items=2)])[0]
    assert (plan.negatives, plan.missing, plan.rows) == (3, 9, 6)


def test_a_domain_of_one_user_and_one_item_has_no_negative():
    plan = plan_domains([counted(0.25, rows=1, users=1, items=1)])[0]
    assert (plan.negatives, plan.missing) == (0, 4)


@pytest.mark.slow
def test_users_items_and_rows_are_counted(rows):
    found = {row["domain"]: row for row in count_domains(rows, settings(0.3))}
    assert found[0].asDict() == {"domain": 0, "rows": 3, "users": 2, "items": 2, "ratio": 0.3}
    assert found[1].asDict() == {"domain": 1, "rows": 1, "users": 1, "items": 1, "ratio": 0.3}


@pytest.mark.slow
def test_a_mapping_gives_each_domain_its_ratio_by_its_id(rows):
    found = count_domains(rows, settings({"d1": 0.47, "d0": 0.21, "d9": 0.5}))
    assert {row["domain"]: row["ratio"] for row in found} == {0: 0.21, 1: 0.47}


@pytest.mark.slow
def test_draws_from_a_range_are_uniform_and_depend_on_id_and_seed_alone(spark):
    rows = spark.range(2000).selectExpr(
        "int(id) domain", "1 user_hash", "1 item_hash", "xxhash64(string(id)) domain_hash"
    )
    ratios = {row["domain"]: row["ratio"] for row in count_domains(rows, settings((0.2, 0.5)))}
    assert 0.2 <= min(ratios.values()) < 0.201
    assert 0.499 < max(ratios.values()) < 0.5
    # The standard error is .3 / sqrt(12 * 2000).
    assert sum(ratios.values()) / 2000 == pytest.approx(0.35, abs=0.006)
    few = count_domains(rows.where("domain % 100 = 7").withColumn("domain", F.col("domain") + 1), settings((0.2, 0.5)))
    assert {row["domain"] - 1: row["ratio"] for row in few}.items() <= ratios.items()
    other = ExamplesSettings(seed=1, negatives=NegativeSettings(kind="in_domain", ctr_ratio=(0.2, 0.5)))
    assert all(row["ratio"] != ratios[row["domain"]] for row in count_domains(rows, other))


def test_domains_that_a_mapping_lacks_are_an_error_that_names_three():
    domains = {f"d{number}" for number in range(6)}
    with pytest.raises(MamdrError, match=r"ctr_ratio is a mapping and has no ratio for domains d1, d2, d3 and 2 more$"):
        check_ratios(domains, settings({"d0": 0.2}))
    with pytest.raises(MamdrError, match=r"no ratio for domain d5$"):
        check_ratios(domains, settings({f"d{number}": 0.2 for number in range(5)}))


def test_mapped_domains_without_a_click_are_a_warning(caplog):
    check_ratios({"d0", "d1"}, settings({"d0": 0.2, "d1": 0.3}))
    assert caplog.messages == []
    check_ratios({"d0", "d1"}, settings({"d0": 0.2, "d1": 0.3, "Vidoe_Games": 0.4}))
    assert caplog.messages == ["examples.negatives.ctr_ratio maps domain Vidoe_Games without a click"]
