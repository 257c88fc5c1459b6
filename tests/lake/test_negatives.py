"""Sampled negatives: exact in number, never clicked, never twice, the same whatever the partitions."""

from collections import Counter

import pytest
from pyspark.sql import functions as F

from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.examples import negatives as module
from mamdr_core.lake.examples.encoding import with_hashes
from mamdr_core.lake.examples.negatives import sample_negatives

pytestmark = pytest.mark.slow

SEED = 3
CLICKS = {
    "first": {(n * 7 % 40, n * n % 31) for n in range(0, 600, 3)},
    "second": {(n * 7 % 40, n * n % 31) for n in range(1, 600, 3)},
    "nothing wanted": {(n * 7 % 40, n * n % 31) for n in range(2, 600, 3)},
    # User 0 has clicked 9 of 10 items and most of the others' share falls to them.
    "emptied": {(0, item) for item in range(9)} | {(user, 9 - user) for user in range(1, 6)} | {(1, 9)},
    "full user": {(0, item) for item in range(20)} | {(user, user) for user in range(1, 11)},
    "user who clicked all": {(0, item) for item in range(12)} | {(1, 0), (2, 1)},
    "one pair": {(3, 3)},
    "large": {(n % 97, n * n % 61) for n in range(500)},
    **{f"small {number}": {(n % 53, n * 7 % 41) for n in range(number, 500, 20)} for number in range(20)},
    "bot": {(0, 10 * n) for n in range(400)} | {(1 + item // 8, item) for item in range(4000)},
    "proportion": {(user, (user * 13 + n * 17) % 500) for user in range(50) for n in range(user + 1)},
    "even": {(user, (user * 7 + n * 11) % 20) for user in range(1000) for n in range(2)},
    "carried": {(user, item) for user in range(10) for item in (user, user + 10)},
}
"""Clicked pairs of (user, item) by domain. Domains do not influence each other, so one query draws for all of them."""
POSSIBLE = {(user, item) for user in range(6) for item in range(10)} - CLICKS["emptied"]
WANTED = {
    "first": 150,
    "second": 33,
    "nothing wanted": 0,
    "emptied": len(POSSIBLE),
    "full user": 100,
    "user who clicked all": 21,
    "one pair": 0,
    "carried": 60,
    **{name: 2 * len(pairs) for name, pairs in CLICKS.items() if name.startswith(("large", "small", "even"))},
    **{name: 3 * len(CLICKS[name]) for name in ("bot", "proportion")},
}
"""Negatives by domain."""
NUMBERS = {name: number for number, name in enumerate(CLICKS)}


@pytest.fixture(scope="module")
def pairs(spark):
    """CLICKS as `sample_negatives` takes them; each row carries its user's age, ten times the user's number."""
    triples = [(user, item, NUMBERS[name]) for name, pairs in CLICKS.items() for user, item in pairs]
    strings = local_frame(spark, triples, "user int, item int, domain int").selectExpr(
        "string(user) user", "string(item) item", "string(domain) domain"
    )
    return with_hashes(strings).select(
        *("user_hash", "item_hash", "domain_hash"),
        *(F.col(name).cast("int").alias(name) for name in ("user", "item", "domain")),
        F.xxhash64("user_hash", "item_hash").alias("key"),
        F.to_date(F.lit("2026-01-01")).alias("ds"),
        (F.col("user").cast("int") * 10).alias("age"),
    )


def draw(spark, pairs, names, seed=SEED, parts=1):
    """The negatives of some domains, each domain in `parts` parts: by name a list of (user, item)."""
    rows = [
        (NUMBERS[name], len(CLICKS[name]), len({item for _, item in CLICKS[name]}), WANTED[name], parts)
        for name in names
    ]
    plan = local_frame(spark, rows, "domain int, positives long, items long, negatives long, parts int")
    chosen = pairs.where(F.col("domain").isin([NUMBERS[name] for name in names]))
    with kept_frames() as keep:
        drawn = sample_negatives(chosen, plan, seed, ["ds", "age"], keep).collect()
    assert all(row["age"] == 10 * row["user"] and str(row["ds"]) == "2026-01-01" for row in drawn)
    found = {name: [] for name in names}
    for row in drawn:
        found[list(CLICKS)[row["domain"]]].append((row["user"], row["item"]))
    return found


@pytest.fixture(scope="module")
def drawn(spark, pairs):
    """The negatives of all domains."""
    return draw(spark, pairs, list(CLICKS))


def test_each_domain_gets_exactly_its_number_none_clicked_none_twice(drawn):
    assert {name: len(found) for name, found in drawn.items()} == WANTED
    for name, found in drawn.items():
        assert len(set(found)) == len(found)
        assert not set(found) & CLICKS[name]
        for place in (0, 1):  # users and items of the domain itself
            assert {pair[place] for pair in found} <= {pair[place] for pair in CLICKS[name]}


def test_a_domain_can_be_emptied_of_unclicked_pairs(drawn):
    assert sorted(drawn["emptied"]) == sorted(POSSIBLE)


def test_what_a_full_user_cannot_take_goes_to_the_others(drawn):
    by_user = Counter(user for user, _ in drawn["full user"])
    assert sum(by_user.values()) == 100
    assert 0 not in by_user
    assert min(by_user[user] for user in range(1, 11)) >= 9
    assert max(by_user.values()) <= 11


def test_a_user_who_clicked_every_item_gets_none_and_the_number_is_still_exact(drawn):
    found = drawn["user who clicked all"]
    assert {user for user, _ in found} == {1, 2}
    assert len(found) == 21


def test_order_partitions_parts_and_copies_change_nothing_and_the_seed_does(spark, pairs, drawn, monkeypatch):
    """Of the large domain the items have three copies or more, of the others most have one or two."""
    monkeypatch.setattr(module, "COPY_ROWS", 5)
    shuffled = pairs.orderBy("key").repartition(5, "item")
    again = draw(spark, shuffled, list(CLICKS), parts=9)
    assert {name: sorted(found) for name, found in again.items()} == {
        name: sorted(found) for name, found in drawn.items()
    }
    names = ("first", "second")
    reseeded = draw(spark, pairs, names, seed=SEED + 1)
    for name in names:
        assert len(reseeded[name]) == WANTED[name]
        assert set(reseeded[name]) != set(drawn[name])


def test_a_user_with_very_many_clicks_is_divided_and_draws_from_all_items(spark, pairs, drawn, monkeypatch):
    monkeypatch.setattr(module, "GROUP_ROWS", 200)
    monkeypatch.setattr(module, "GROUP_CLICKS", 20)
    found = draw(spark, pairs, ["bot"])["bot"]
    assert len(set(found)) == len(found) == WANTED["bot"]
    assert not set(found) & CLICKS["bot"]
    of_bot = [item for user, item in found if user == 0]
    # Eight groups, each rounded by less than one.
    assert len(of_bot) == pytest.approx(1200, abs=8)
    # 300 are expected in each quarter of the items, with a deviation below 15.
    assert all(abs(count - 300) < 60 for count in Counter(item // 1000 for item in of_bot).values())
    others = {pair for pair in found if pair[0]}
    assert len(others & {pair for pair in drawn["bot"] if pair[0]}) > 0.98 * len(others)


def test_users_get_negatives_in_proportion_to_their_clicks(drawn):
    clicks = Counter(user for user, _ in CLICKS["proportion"])
    assert Counter(user for user, _ in drawn["proportion"]) == {user: 3 * count for user, count in clicks.items()}


def test_items_are_drawn_evenly(drawn):
    by_item = Counter(item for _, item in drawn["even"])
    assert len(by_item) == 20
    # 200 each; a binomial's standard deviation is 14.
    assert max(abs(count - 200) for count in by_item.values()) < 56
