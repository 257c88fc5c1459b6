"""The ids that vocabularies lack are found on the driver and by many tasks with the same result."""

from collections import Counter
from datetime import date

import pytest
from pyspark.sql import functions as F

from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.session import overriding
from mamdr_core.lake.examples import unknown_ids
from mamdr_core.lake.examples.unknown_ids import find_unknown_ids

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

DAYS = [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]
MIN_COUNTS = {"user": 1, "item": 3, "tags": 1}


def row_of(number):
    tags = [None, [], [f"t{number % 7}", f"t{number % 11}", None]][number % 3]
    user = None if number % 50 == 0 else f"u{number % 83}"
    return (
        user,
        f"i{number % 91 if number % 4 else 'often'}",
        f"d{number % 5}",
        number % 2,
        DAYS[number % 3],
        tags,
        "train",
    )


@pytest.fixture(scope="module")
def rows(spark):
    columns = "user string, item string, domain string, label int, ds date, tags array<string>, split string"
    split = F.when(F.col("domain") != "d3", F.col("split"))
    return spark.createDataFrame([row_of(number) for number in range(300)], columns).withColumn("split", split)


def expected(known):
    """The new ids by column with their first days, computed row by row."""
    counts, first_days = {name: Counter() for name in MIN_COUNTS}, {}
    for user, item, _, _, day, tags, _ in map(row_of, range(300)):
        for column, ids in (("user", [user]), ("item", [item]), ("tags", tags or [])):
            for name in filter(None, ids):
                counts[column][name] += 1
                first_days[column, name] = min(day, first_days.get((column, name), day))
    return {
        column: {n: first_days[column, n] for n, rows in counts[column].items() if rows >= least and n not in known}
        for column, least in MIN_COUNTS.items()
    }


@pytest.mark.parametrize(("partitions", "on_driver"), [(1, True), (1, False), (5, False)])
def test_new_ids_are_numbered_by_their_hashes_and_domains_described(spark, rows, partitions, on_driver, monkeypatch):
    monkeypatch.setattr(unknown_ids, "GROUPED_ROWS", 100)
    known = [f"u{number}" for number in range(20, 60)]
    known_users = spark.createDataFrame([(name,) for name in known], "id string")
    names = [f"{kind}{n}" for kind in "uit" for n in [*range(91), "often"]]
    hashed = spark.createDataFrame([(name,) for name in names], "id string").select("id", hash64(F.col("id")))
    hashes = {name: value % (1 << 64) for name, value in hashed.collect()}
    with kept_frames() as keep, overriding(spark, {"spark.sql.shuffle.partitions": partitions}):
        found = find_unknown_ids(rows, MIN_COUNTS, {"user": known_users}, keep, True, on_driver)
        entries = {
            column: sorted(found.entries(spark, column, 40).collect(), key=lambda row: row["index"])
            for column in MIN_COUNTS
        }
    for column, wanted in expected(set(known)).items():
        assert sum(found.counts[column].values()) == len(wanted)
        assert [row["index"] for row in entries[column]] == list(range(40, 40 + len(wanted)))
        assert [row["id"] for row in entries[column]] == sorted(wanted, key=hashes.__getitem__)
        assert {row["id"]: row["first_seen"] for row in entries[column]} == wanted
    assert len(expected(set(known))["item"]) < 91  # an id that is too rare is left out
    described = {each["domain"]: each for each in found.domains}
    assert sorted(described) == [f"d{number}" for number in range(5)]
    facts = ("rows", "positives", "unsplit", "ds", "newest")
    assert [described["d3"][name] for name in facts] == [60, 30, 60, DAYS[0], DAYS[2]]
    assert [described["d2"][name] for name in facts] == [60, 30, 0, DAYS[0], DAYS[2]]
    assert all(0 <= each["hash"] < 1 << 64 for each in described.values())
