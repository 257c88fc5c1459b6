"""Indices are contiguous, decided by the ids alone, and never change."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from mamdr_core.config.lake import IdSettings
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples import unknown_ids, vocabularies
from mamdr_core.lake.examples.unknown_ids import UnknownIds
from mamdr_core.lake.examples.vocabularies import encode, id_column
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES
from tests.lake.runs_and_versions import Growth, update_vocabulary

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

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


def test_a_second_day_keeps_every_index_and_numbers_unknown_ids_on(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    update_vocabulary(lake, USERS, make_clicks([(f"u{n}", "i", "d", 1, "2026-01-01") for n in range(20)]), "user")
    before = indices(lake)
    second = make_clicks([(f"u{n}", "i", "d", 1, "2026-01-02") for n in range(15, 30)])
    assert update_vocabulary(lake, USERS, second, "user") == Growth(total=30, new=10)
    after = indices(lake)
    assert {name: after[name] for name in before} == before
    assert sorted(after.values()) == list(range(30))
    seen = {row["id"]: str(row["first_seen"]) for row in lake.read("users").collect()}
    assert (seen["u3"], seen["u17"], seen["u29"]) == ("2026-01-01", "2026-01-01", "2026-01-02")


def test_nothing_is_committed_where_no_id_is_new_though_its_days_are(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    update_vocabulary(lake, USERS, make_clicks([("u", "i", "d", 1, "2026-01-02"), ("v", "i", "d")]), "user")
    late = make_clicks([("u", "i", "d", 1, "2026-01-01"), ("v", "i", "d", 1, "2026-01-05")])
    assert update_vocabulary(lake, USERS, late, "user") == Growth(total=2, new=0)
    assert lake.version("users") == 0


def test_ids_are_data_whatever_they_hold(spark, lake_root, make_clicks):
    strange = ["'; DROP TABLE users; --", "😀", "9223372036854775808", "a b", "\\'"]
    lake = Lake(spark, lake_root)
    update_vocabulary(lake, USERS, make_clicks([(name, "i", "d") for name in strange]), "user")
    assert set(indices(lake)) == set(strange)


def test_an_unknown_or_missing_id_is_minus_one(spark, make_clicks):
    rows = make_clicks([("u", "i", "d"), ("new", "i", "d"), (None, "i", "d")])
    rows = rows.select(hash64(F.col("user")).alias("user_hash"), "label")
    vocabulary = spark.createDataFrame([("u", 4)], "id string, index int")
    encoded = encode(rows, "user_hash", vocabulary, to="user").select("user", "label")
    assertDataFrameEqual(encoded, spark.createDataFrame([(4, 1), (-1, 1), (-1, 1)], "user int, label int"))


def test_a_large_vocabulary_is_shuffled_and_gives_the_same_indices(spark, make_clicks, monkeypatch):
    rows = make_clicks([(f"u{n}", "i", "d") for n in range(40)]).select(hash64(F.col("user")).alias("user_hash"))
    vocabulary = spark.createDataFrame([(f"u{n}", n) for n in range(30)], "id string, index int")
    small = encode(rows, "user_hash", vocabulary, to="user")
    monkeypatch.setattr(vocabularies, "memory_of", lambda _: 30 * vocabularies.BROADCAST_BYTES - 1)
    large = encode(rows, "user_hash", vocabulary, to="user")
    assert "BroadcastHashJoin" in small._jdf.queryExecution().simpleString()
    assert "ShuffledHashJoin" in large._jdf.queryExecution().simpleString()
    assertDataFrameEqual(small, large)


def test_a_rare_id_gets_its_index_once_it_is_seen_often_enough(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    first = [("often", "i", "d")] * 3 + [("rare", "i", "d")]
    assert update_vocabulary(lake, USERS, make_clicks(first), "user", min_count=2) == Growth(total=1, new=1)
    second = [*first, ("rare", "j", "d", 1, "2026-01-02")]
    assert update_vocabulary(lake, USERS, make_clicks(second), "user", min_count=2) == Growth(total=2, new=1)
    assert indices(lake) == {"often": 0, "rare": 1}
    # Who has an index keeps it, however rare.
    assert update_vocabulary(lake, USERS, make_clicks([("rare", "i", "d")]), "user", min_count=9).total == 2


def test_hashed_ids_are_as_many_as_buckets_at_most(spark, lake_root, make_clicks):
    clicks = make_clicks([(f"u{n}", "i", "d") for n in range(200)] + [(None, "i", "d")])
    hashed = clicks.withColumn("user", id_column(F.col("user"), IdSettings(buckets=8)))
    lake = Lake(spark, lake_root)
    assert update_vocabulary(lake, USERS, hashed, "user") == Growth(total=8, new=8)
    assert set(indices(lake)) == {f"bucket {n}" for n in range(8)}
    assert hashed.where("user IS NULL").count() == 1


def test_ids_that_share_a_hash_share_an_index(spark, lake_root, make_clicks, monkeypatch):
    monkeypatch.setattr(unknown_ids, "hash64", lambda ids: F.length(ids).cast("long"))
    lake = Lake(spark, lake_root)
    clicks = make_clicks([("aa", "i", "d"), ("bb", "i", "d"), ("c", "i", "d")])
    assert update_vocabulary(lake, USERS, clicks, "user").total == 2
    assert sorted(indices(lake)) == ["aa", "c"]
    assert update_vocabulary(lake, USERS, clicks, "user") == Growth(total=2, new=0)


def test_a_job_that_another_overtook_numbers_its_ids_behind(spark, lake_root, make_clicks, monkeypatch):
    lake = Lake(spark, lake_root)
    update_vocabulary(lake, USERS, make_clicks([("old", "i", "d")]), "user")
    other = make_clicks([(f"b{n}", "i", "d") for n in range(30)] + [("both", "i", "d")])
    ours = make_clicks([(f"a{n}", "i", "d") for n in range(20)] + [("both", "i", "d")])
    entries, overtaken = UnknownIds.entries, []

    def overtake(*arguments):
        if not overtaken:
            overtaken.append(True)
            update_vocabulary(Lake(spark, lake_root), USERS, other, "user")
        return entries(*arguments)

    monkeypatch.setattr(UnknownIds, "entries", overtake)
    assert update_vocabulary(lake, USERS, ours, "user") == Growth(total=52, new=20)
    found = indices(lake)
    assert sorted(found.values()) == list(range(52))
    assert found["old"] == 0
    assert {found[f"b{n}"] for n in range(30)} | {found["both"]} == set(range(1, 32))


def test_two_jobs_that_write_at_the_same_moment_share_no_index(spark, lake_root, make_clicks, monkeypatch):
    moment = threading.Barrier(2, timeout=120)
    entries = UnknownIds.entries
    first_tries = []

    def meet(*arguments):
        first_tries.append(threading.get_ident())
        if first_tries.count(threading.get_ident()) == 1:
            moment.wait()
        return entries(*arguments)

    monkeypatch.setattr(UnknownIds, "entries", meet)
    Lake(spark, lake_root).create(USERS)
    logs = [make_clicks([(f"{name}{n}", "i", "d") for n in range(25)]) for name in "ab"]
    with ThreadPoolExecutor(2) as pool:
        grown = list(pool.map(lambda rows: update_vocabulary(Lake(spark, lake_root), USERS, rows, "user"), logs))
    assert sorted(growth.total for growth in grown) == [25, 50]
    assert len(first_tries) == 3
    assert sorted(indices(Lake(spark, lake_root)).values()) == list(range(50))


def test_jobs_that_never_get_through_say_so(spark, lake_root, make_clicks, monkeypatch):
    monkeypatch.setattr(Lake, "append_to", lambda *_, **__: False)
    with pytest.raises(MamdrError, match=r"users: other jobs kept adding ids at the same time"):
        update_vocabulary(Lake(spark, lake_root), USERS, make_clicks([("u", "i", "d")]), "user")
