"""Indices are contiguous, decided by the ids alone, and never change."""

import pytest
from pyspark.testing import assertDataFrameEqual

from mamdr_core.lake.tables import Lake
from mamdr_core.lake.vocabularies import Growth, encode, update_vocabulary
from schemas import TABLES

pytestmark = pytest.mark.slow

USERS = TABLES["users"]


def indices(lake):
    return {row["id"]: row["index"] for row in lake.read("users").collect()}


def test_indices_are_contiguous_and_do_not_depend_on_order_or_partitions(spark, tmp_path, make_clicks):
    clicks = make_clicks([(f"u{n}", "i", "d") for n in range(500)])
    found = []
    for name, rows in (("a", clicks), ("b", clicks.orderBy("event_time", ascending=False).repartition(7))):
        lake = Lake(spark, str(tmp_path / name))
        assert update_vocabulary(lake, USERS, rows, "user") == Growth(total=500, new=500)
        found.append(indices(lake))
    assert sorted(found[0].values()) == list(range(500))
    assert found[0] == found[1]


def test_a_second_day_keeps_every_index_and_numbers_new_ids_on(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    update_vocabulary(lake, USERS, make_clicks([(f"u{n}", "i", "d", 1, "2026-01-01") for n in range(20)]), "user")
    before = indices(lake)
    second = make_clicks([(f"u{n}", "i", "d", 1, "2026-01-02") for n in range(15, 30)])
    assert update_vocabulary(lake, USERS, second, "user") == Growth(total=30, new=10)
    after = indices(lake)
    assert {name: after[name] for name in before} == before
    assert sorted(after.values()) == list(range(30))
    seen = {row["id"]: (str(row["first_seen"]), str(row["last_seen"])) for row in lake.read("users").collect()}
    assert seen["u3"] == ("2026-01-01", "2026-01-01")
    assert seen["u17"] == ("2026-01-01", "2026-01-02")
    assert seen["u29"] == ("2026-01-02", "2026-01-02")


def test_a_late_day_moves_first_seen_back(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    for day in ("2026-01-05", "2026-01-02"):
        update_vocabulary(lake, USERS, make_clicks([("u", "i", "d", 1, day)]), "user")
    row = lake.read("users").first()
    assert (str(row["first_seen"]), str(row["last_seen"]), row["index"]) == ("2026-01-02", "2026-01-05", 0)


def test_nothing_is_committed_where_nothing_changed(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    clicks = make_clicks([("u", "i", "d"), ("v", "i", "d")])
    update_vocabulary(lake, USERS, clicks, "user")
    version = lake.version("users")
    assert update_vocabulary(lake, USERS, clicks, "user") == Growth(total=2, new=0)
    assert lake.version("users") == version


def test_ids_are_data_whatever_they_hold(spark, lake_root, make_clicks):
    strange = ["'; DROP TABLE users; --", "😀", "9223372036854775808", "a b", "\\'"]
    lake = Lake(spark, lake_root)
    update_vocabulary(lake, USERS, make_clicks([(name, "i", "d") for name in strange]), "user")
    assert set(indices(lake)) == set(strange)


def test_an_unknown_or_missing_id_is_minus_one(spark, make_clicks):
    rows = make_clicks([("u", "i", "d"), ("new", "i", "d"), (None, "i", "d")]).select("user", "label")
    vocabulary = spark.createDataFrame([("u", 4)], "id string, index int")
    expected = spark.createDataFrame([(4, 1), (-1, 1), (-1, 1)], "user int, label int")
    assertDataFrameEqual(encode(rows, "user", vocabulary, to="user"), expected)
