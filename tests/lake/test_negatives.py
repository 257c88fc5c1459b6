"""Sampled negatives: exact in number, never clicked, never twice, the same whatever the partitions."""

from collections import Counter
from functools import partial

import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.examples import negatives as module
from mamdr_core.lake.examples.encoding import with_hashes
from mamdr_core.lake.examples.negatives import sample_negatives

SEED = 3


@pytest.fixture
def make_pairs(spark):
    """Clicked pairs from (user, item, domain) numbers, as `sample_negatives` takes them."""

    def make(triples):
        frame = spark.createDataFrame(list(triples), "user int, item int, domain int").distinct()
        strings = frame.selectExpr("string(user) user", "string(item) item", "string(domain) domain")
        return with_hashes(strings).select(
            *("user_hash", "item_hash", "domain_hash"),
            *(F.col(name).cast("int").alias(name) for name in ("user", "item", "domain")),
            F.xxhash64("user_hash", "item_hash").alias("key"),
            F.to_date(F.lit("2026-01-01")).alias("ds"),
        )

    return make


@pytest.fixture
def make_plan(spark):
    """A plan that wants `wanted[domain]` negatives, in `parts` parts a domain."""

    def make(pairs, wanted, parts=1):
        items = pairs.groupBy("domain").agg(F.count("*").alias("positives"), F.count_distinct("item").alias("items"))
        negatives = spark.createDataFrame(list(wanted.items()), "domain int, negatives bigint")
        return items.join(negatives, "domain").withColumn("parts", F.lit(parts))

    return make


@pytest.fixture
def draw():
    """`sample_negatives`, whose result may be used until the test ends."""
    with kept_frames() as keep:
        yield partial(sample_negatives, keep=keep)


def drawn(frame):
    return [(row["user"], row["item"], row["domain"]) for row in frame.collect()]


@pytest.mark.slow
def test_each_domain_gets_exactly_its_number_none_clicked_none_twice(make_pairs, make_plan, draw):
    triples = {(n * 7 % 40, n * n % 31, n % 3) for n in range(600)}
    pairs = make_pairs(triples)
    wanted = {0: 150, 1: 33, 2: 0}
    found = drawn(draw(pairs, make_plan(pairs, wanted), SEED, ["ds"]))
    assert Counter(domain for _, _, domain in found) == {0: 150, 1: 33}
    assert len(set(found)) == len(found)
    assert not set(found) & triples
    for user, item, domain in found:
        assert any(u == user and d == domain for u, _, d in triples)
        assert any(i == item and d == domain for _, i, d in triples)


@pytest.mark.slow
def test_a_domain_can_be_emptied_of_unclicked_pairs(make_pairs, make_plan, draw):
    # User 0 has clicked 9 of 10 items and most of the others' share falls to them.
    triples = {(0, item, 0) for item in range(9)} | {(user, 9 - user, 0) for user in range(1, 6)} | {(1, 9, 0)}
    possible = {(user, item, 0) for user in range(6) for item in range(10)} - triples
    pairs = make_pairs(triples)
    found = drawn(draw(pairs, make_plan(pairs, {0: len(possible)}), SEED, ["ds"]))
    assert sorted(found) == sorted(possible)


@pytest.mark.slow
def test_what_a_full_user_cannot_take_goes_to_the_others(make_pairs, make_plan, draw):
    triples = {(0, item, 0) for item in range(20)} | {(user, user, 0) for user in range(1, 11)}
    pairs = make_pairs(triples)
    found = drawn(draw(pairs, make_plan(pairs, {0: 100}), SEED, ["ds"]))
    by_user = Counter(user for user, _, _ in found)
    assert sum(by_user.values()) == len(set(found)) == 100
    assert 0 not in by_user
    assert min(by_user[user] for user in range(1, 11)) >= 9
    assert max(by_user.values()) <= 11


@pytest.mark.slow
def test_a_user_who_clicked_every_item_gets_none_and_the_number_is_still_exact(make_pairs, make_plan, draw):
    triples = {(0, item, 0) for item in range(12)} | {(1, 0, 0), (2, 1, 0), (3, 3, 1)}
    pairs = make_pairs(triples)
    found = drawn(draw(pairs, make_plan(pairs, {0: 21, 1: 0}), SEED, ["ds"]))
    assert Counter(user for user, _, _ in found).keys() == {1, 2}
    assert len(set(found)) == len(found) == 21
    assert not set(found) & triples


@pytest.mark.slow
def test_a_domain_with_half_of_all_pairs_is_drawn_alike_in_parts_and_copies(make_pairs, make_plan, draw, monkeypatch):
    triples = {(n % 97, n * n % 61, 0) for n in range(500)} | {(n % 53, n * 7 % 41, 1 + n % 20) for n in range(500)}
    sizes = Counter(domain for _, _, domain in triples)
    wanted = {domain: 2 * size for domain, size in sizes.items()}
    pairs = make_pairs(triples)
    first = set(drawn(draw(pairs, make_plan(pairs, wanted), SEED, ["ds"])))
    assert Counter(domain for _, _, domain in first) == wanted
    assert not first & triples
    # The large domain's items have three copies or more, the others one or two.
    monkeypatch.setattr(module, "COPY_ROWS", 5)
    found = drawn(draw(pairs, make_plan(pairs, wanted, parts=9), SEED, ["ds"]))
    assert len(found) == len(first)
    assert set(found) == first


@pytest.mark.slow
def test_a_user_with_very_many_clicks_is_divided_and_draws_from_all_items(make_pairs, make_plan, draw, monkeypatch):
    triples = {(0, 10 * n, 0) for n in range(400)} | {(1 + item // 8, item, 0) for item in range(4000)}
    pairs = make_pairs(triples)
    plan = make_plan(pairs, {0: 3 * len(triples)})
    whole = set(drawn(draw(pairs, plan, SEED, ["ds"])))
    monkeypatch.setattr(module, "GROUP_ROWS", 200)
    monkeypatch.setattr(module, "GROUP_CLICKS", 20)
    found = drawn(draw(pairs, plan, SEED, ["ds"]))
    assert len(set(found)) == len(found) == 3 * len(triples)
    assert not set(found) & triples
    of_bot = [item for user, item, _ in found if user == 0]
    # Eight groups, each rounded by less than one.
    assert len(of_bot) == pytest.approx(1200, abs=8)
    # 300 are expected in each quarter of the items, with a deviation below 15.
    assert all(abs(count - 300) < 60 for count in Counter(item // 1000 for item in of_bot).values())
    others = {triple for triple in found if triple[0]}
    assert len(others & {triple for triple in whole if triple[0]}) > 0.98 * len(others)


@pytest.mark.slow
def test_users_get_negatives_in_proportion_to_their_clicks(make_pairs, make_plan, draw):
    triples = {(user, (user * 13 + n * 17) % 500, 0) for user in range(50) for n in range(user + 1)}
    clicks = Counter(user for user, _, _ in triples)
    pairs = make_pairs(triples)
    found = drawn(draw(pairs, make_plan(pairs, {0: 3 * len(triples)}), SEED, ["ds"]))
    assert Counter(user for user, _, _ in found) == {user: 3 * count for user, count in clicks.items()}


@pytest.mark.slow
def test_items_are_drawn_evenly(make_pairs, make_plan, draw):
    triples = {(user, (user * 7 + n * 11) % 20, 0) for user in range(1000) for n in range(2)}
    pairs = make_pairs(triples)
    found = drawn(draw(pairs, make_plan(pairs, {0: 4000}), SEED, ["ds"]))
    by_item = Counter(item for _, item, _ in found)
    assert len(by_item) == 20
    # 200 each; a binomial's standard deviation is 14.
    assert max(abs(count - 200) for count in by_item.values()) < 56


@pytest.mark.slow
def test_order_partitions_and_parts_change_nothing_and_the_seed_does(make_pairs, make_plan, draw):
    pairs = make_pairs({(n * 7 % 40, n * n % 31, n % 3) for n in range(400)})
    wanted = {0: 100, 1: 50, 2: 25}
    first = draw(pairs, make_plan(pairs, wanted), SEED, ["ds"])
    shuffled = pairs.orderBy("key").repartition(5, "item")
    assertDataFrameEqual(first, draw(shuffled, make_plan(pairs, wanted, parts=4), SEED, ["ds"]))
    assert set(drawn(first)) != set(drawn(draw(pairs, make_plan(pairs, wanted), SEED + 1, ["ds"])))


@pytest.mark.slow
def test_carried_columns_come_from_a_click_of_the_same_user_in_the_domain(make_pairs, make_plan, draw):
    pairs = make_pairs({(user, item, 0) for user in range(10) for item in (user, user + 10)})
    pairs = pairs.withColumn("age", F.col("user") * 10)
    found = draw(pairs, make_plan(pairs, {0: 60}), SEED, ["ds", "age"])
    assert found.count() == 60
    assert found.where("age <> user * 10").count() == 0
