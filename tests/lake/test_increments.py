"""A day is encoded once: whatever comes, late rows and corrections too, the examples are those of encoding all."""

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import with_values
from mamdr_core.lake.core.features import declared_clicks
from mamdr_core.lake.core.notes import load_note
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples import job
from mamdr_core.lake.examples.counts import FOLDER, count_examples, read_counts
from mamdr_core.lake.examples.increments import last_build
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.examples.windows import Window, read_window, window_at
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.maintenance import merging
from mamdr_core.lake.maintenance.job import maintain_lake
from mamdr_core.lake.maintenance.merging import merge_examples
from mamdr_core.lake.stats import known_first_days, summarize_domains
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import pin_examples
from schemas import SPLITS
from tests.lake.stored import commit, rows_of, sorted_rows, stored

pytestmark = pytest.mark.slow

FIRST = date(2026, 1, 29)
RANDOM = {"split": {"smallest_domain": 1}, "shards": {"count": 2}}
MOVING = {"split": {"kind": "time", "val_days": 1, "test_days": 2}, "days": 9, "shards": {"count": 2}}
EVENTS = {
    2: (100, (0, 1), 9),  # late rows of days that were built
    3: (1, (0, 2), 20),  # a correction, on other days too
    4: (4, (4,), 25),  # a repeated day
    5: (101, (4,), 12, True),  # input.replace: days
    6: (0, (9,), 5),  # all rows of a load move to a day ahead
}
"""What comes on the same day as its own load, by the day's number: a load, its days, its rows."""
FEATURES = [
    {"name": "tags", "kind": "bag", "length": 3, "weights": "tags_weights"},
    {"name": "seen", "kind": "sequence", "length": 2, "table": "item"},
]
KEYS = ("split", "shard", "domain", "ds")
BUILDS = {0: 30, 2: 69, 5: 147, 7: 60}
"""Days of which examples are built, and the rows that came since the build before."""


class Log:
    """A log that random loads come from: what ingest_clicks would file of them, with its notes."""

    def __init__(self, lake, seed):
        self.lake, self.random = lake, random.Random(seed)
        self.load_of = {}  # by path of a file
        self.table = declared_clicks([Feature(**feature) for feature in FEATURES])

    def rows(self, load, days, count):
        for _ in range(count):
            user, item, domain = (f"{kind}{self.random.randrange(of)}" for kind, of in (("u", 9), ("i", 7), ("d", 5)))
            day = self.random.choice(days)
            at = datetime(
                day.year, day.month, day.day, self.random.randrange(24), self.random.randrange(60), tzinfo=UTC
            )
            row = {"user": user, "item": item, "domain": domain, "label": self.random.randrange(2), "event_time": at}
            tags = range(at.minute % 4 + 1)
            row |= {"tags": [f"t{tag}" for tag in tags], "tags_weights": [float(tag) for tag in tags]}
            yield row | {"seen": [item, "i0", item], "load": load, "ds": day}

    def bring(self, load, days, count, whole_days=False):
        """File a load, or file it again; with `whole_days` nothing else stays on its days."""
        given = {str(day) for day in days}

        def replaced(added):
            return added["partitionValues"]["ds"] in given if whole_days else self.load_of[added["path"]] == load

        note = load_note(load, days if whole_days else ())
        written = commit(self.lake.root, self.table, list(self.rows(load, days, count)), note, replaced)
        self.load_of |= dict.fromkeys(written, load)


def assert_counted(lake):
    """The last build has recorded the right counts: by split, shard, domain, and days that a window may separate."""
    window = window_at(lake, lake.version("examples"))
    first = min(filter(None, (window.first, window.val_from)), default=date.max)
    rows, positives = Counter(), Counter()
    for row in rows_of(lake.root, "examples"):
        day = row["ds"] if row["ds"] >= first else date(1970, 1, 1)
        key = row.get("split", ""), row["shard"], row["domain"], day
        rows[key] += 1
        positives[key] += row["label"]
    left = read_counts(lake, last_build(lake.log("examples")).counted_by, window)
    assert {tuple(row[name] for name in KEYS): (row["rows"], row["positives"]) for row in left.to_pylist()} == {
        key: (count, positives[key]) for key, count in rows.items()
    }


def contents(lake, version=None):
    return sorted_rows(stored(lake.root, "examples", version), "shard")


@pytest.mark.parametrize(("settings", "seed"), [(RANDOM, 1), (MOVING, 2)])
def test_what_is_built_day_by_day_is_what_a_build_of_everything_gives(
    spark, lake_root, make_config, monkeypatch, settings, seed
):
    monkeypatch.setattr(merging, "MANY", 2)
    lake = Lake(spark, lake_root)
    log = Log(lake, seed)
    for number in range(8):
        today = FIRST + timedelta(number)
        log.bring(number, [today], 30)
        if number in EVENTS:
            load, days, *rest = EVENTS[number]
            log.bring(load, [FIRST + timedelta(day) for day in days], *rest)
        if number not in BUILDS:
            continue
        config = make_config(examples={**settings, "until": str(today), "rebuild": False}, features=FEATURES)
        built = build_examples(spark, config)
        assert built["rebuilt"] == ("" if number else "there are no examples yet")
        assert built["encoded_rows"] <= BUILDS[number]
        assert_counted(lake)
        if number == 5:  # a build follows files that were joined
            assert merge_examples(lake, config.examples.shards) > 0
    if settings is MOVING:
        maintain_lake(spark, with_values(config, {"maintain.history_days": 9}))
        assert {min(stored(lake_root, name)["ds"].to_pylist()) for name in ("clicks", "examples")} == {
            FIRST + timedelta(1)
        }
    daily = lake.version("examples")
    built = build_examples(spark, config)
    assert (built["encoded_rows"], built["rebuilt"], built["examples_version"]) == (0, "", daily)
    everything = build_examples(spark, with_values(config, {"examples.rebuild": True}))
    assert everything.pop("encoded_rows") > built.pop("encoded_rows")
    different = ("rebuilt", "clicks_version", "examples_version")
    named = {name: everything[name] for name in built}  # a build without new_clicks has no figures of features' values
    assert {**named, **dict.fromkeys(different)} == {**built, **dict.fromkeys(different)}
    version = everything["examples_version"]
    assert contents(lake, daily) == contents(lake, version)
    windows = [sorted_rows(read_window(lake, each).toArrow(), "shard") for each in (daily, version)]
    assert windows[0] == windows[1]
    rows = len(windows[0])
    assert 0 < rows <= len(stored(lake_root, "examples"))
    assert rows == everything["examples"] == sum(everything[f"{split}_rows"] for split in SPLITS)
    pinned = pin_examples(spark, lake_root, ())
    share = Share(pinned, (), pinned.counts["train"] >= 0)
    assert {split: len(share.columns(split)) for split in SPLITS} == {
        split: everything[f"{split}_rows"] for split in SPLITS
    }
    if settings is RANDOM:
        return
    newest = pin_examples(spark, lake_root, (), train_days=1)
    day = today - timedelta(3)
    assert newest.counts["train"].sum() == stored(lake_root, "examples")["ds"].to_pylist().count(day) > 0
    assert newest.counts["test"].tolist() == pinned.counts["test"].tolist()
    back = build_examples(spark, with_values(config, {"examples.until": str(FIRST + timedelta(3))}))
    assert (back["rebuilt"], back["encoded_rows"]) == ("", 0)
    assert max(stored(lake_root, "examples")["ds"].to_pylist()) == FIRST + timedelta(3)
    again = build_examples(spark, config)
    assert again["rebuilt"] == ""
    assert contents(lake, version) == contents(lake)


def test_loads_of_the_job_are_encoded_once_and_reasons_for_a_rebuild_named(
    spark, make_log, make_config, lake_root, monkeypatch
):
    scans = []
    monkeypatch.setattr(job, "count_examples", lambda *given: scans.append(given) or count_examples(*given))

    def rows(day, users):
        return [(f"u{n}", f"i{n % 3}", "d", str(n % 2), f"2026-01-0{day} 10:00:{n:02d}") for n in users]

    first, second = make_log(rows(1, range(20)), "one"), make_log(rows(2, range(15, 25)), "two")
    ingest_clicks(spark, make_config(first))
    build_examples(spark, make_config(first))
    scans.clear()
    ingest_clicks(spark, make_config(second))
    second_build = build_examples(spark, make_config(second))
    names = ("encoded_rows", "examples", "new_users", "rebuilt")
    assert [second_build[name] for name in names] == [10, 30, 5, ""]
    assert not scans, "counts of the build before were kept"
    lake = Lake(spark, lake_root)
    clicks, day = lake.read("clicks"), date(2026, 1, 2)
    known = known_first_days(lake, lake.version("clicks"), day)
    summaries = [sorted_rows(summarize_domains(clicks, day, *given).toArrow()) for given in ((known,), ())]
    assert summaries[0] == summaries[1] != []
    make_log(rows(1, range(12)), "one")
    ingest_clicks(spark, make_config(first))
    corrected = build_examples(spark, make_config(first))
    assert [corrected[name] for name in names] == [12, 22, 0, ""]
    assert len(scans) == 2
    files = [file for file in (Path(lake_root) / FOLDER).iterdir() if not file.name.startswith(".")]
    newest = max(files, key=lambda file: file.stat().st_mtime)
    assert read_counts(lake, newest.name, Window()) is not None
    content = newest.read_bytes()
    for number, damaged in enumerate((content[:-1], None, bytes([*content[:99], content[99] ^ 1, *content[100:]]))):
        if number:  # Hadoop's own check, which object stores do not have
            newest.with_name(f".{newest.name}.crc").unlink(missing_ok=True)
        newest.write_bytes(damaged) if damaged else newest.unlink()
        assert read_counts(lake, newest.name, Window()) is None
    assert build_examples(spark, make_config(first)) == corrected | {"encoded_rows": 0}
    assert len(scans) == 3
    assert len(files) == 2
    assert len({row["load"] for row in rows_of(lake_root, "examples")}) == 2
    lake.append("clicks", lake.read("clicks").limit(1))
    with pytest.raises(MamdrError, match=r"examples.rebuild is false.*version 3 of clicks \(WRITE\) was not"):
        build_examples(spark, make_config(examples={"rebuild": False}))
    assert build_examples(spark, make_config())["examples"] == 23
    reseeded = build_examples(spark, make_config(examples={"seed": 3}))
    assert (reseeded["rebuilt"], reseeded["encoded_rows"]) == ("examples.seed changed", 23)


def test_another_kind_of_split_and_a_table_of_older_code_are_taken_over(spark, make_config, lake_root):
    lake = Lake(spark, lake_root)
    Log(lake, 0).bring(0, [FIRST, FIRST + timedelta(1), FIRST + timedelta(2), FIRST + timedelta(3)], 40)
    build_examples(spark, make_config())
    for older in (
        "SET TBLPROPERTIES ('delta.dataSkippingStatsColumns' = 'domain')",
        "DROP CONSTRAINT required_present",
    ):
        spark.sql(f"ALTER TABLE delta.`{lake.path('examples')}` {older}")
    old = lake.read("examples").drop("load")
    old.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(lake.path("examples"))
    log = lake.log("examples")
    for settings, reason in (({}, "was not written by a build"), (MOVING, "examples.split"), ({}, "examples.split")):
        built = build_examples(spark, make_config(examples=settings))
        assert reason in built["rebuilt"]
        assert (built["examples"], "load" in log.columns()) == (40, True)
        assert ("split" in log.columns(), "split_known" in log.constraints()) == (settings == {},) * 2
        assert "IS NOT NULL" in log.constraints()["required_present"]
    assert build_examples(spark, make_config())["rebuilt"] == ""


def test_a_domain_that_grows_moves_no_trained_row_into_test(spark, make_config, lake_root):
    lake = Lake(spark, lake_root)
    log = Log(lake, 0)
    log.bring(0, [FIRST], 9)
    config = make_config(examples={"split": {"smallest_domain": 30}})
    assert build_examples(spark, config)["train_rows"] == 9
    log.bring(1, [FIRST + timedelta(1)], 400)
    grown = build_examples(spark, config)
    assert grown["test_rows"] > 0
    assert {row["split"] for row in rows_of(lake_root, "examples") if row["load"] == 0} == {"train"}


def test_a_build_during_a_merge_and_a_merge_that_is_killed_lose_no_row(spark, make_config, lake_root, monkeypatch):
    monkeypatch.setattr(merging, "MANY", 2)
    lake, config = Lake(spark, lake_root), make_config(examples=RANDOM)
    log = Log(lake, 0)
    loads = iter(range(100))

    def build_more(day):
        log.bring(next(loads), [FIRST + timedelta(day)], 10)
        assert build_examples(spark, config)["encoded_rows"] == 10
        assert_counted(lake)

    def join():
        return merge_examples(lake, config.examples.shards)

    def die(*_):
        raise KeyboardInterrupt

    write, written = Lake.write_next, Lake.written

    def before_the_write(act):
        """Act between what a job reads of examples and its write of them, once."""

        def act_and_write(self, table, *rest):
            if getattr(table, "name", table) == "examples":
                monkeypatch.setattr(Lake, "write_next", write)
                act()
            return write(self, table, *rest)

        monkeypatch.setattr(Lake, "write_next", act_and_write)

    for day in range(4):  # the newest is the first of a month, whose days before are joined
        build_more(day)
    before = lake.version("examples")
    before_the_write(die)
    with pytest.raises(KeyboardInterrupt):
        join()
    assert lake.version("examples") == before
    monkeypatch.setattr(Lake, "written", die)
    with pytest.raises(KeyboardInterrupt):
        join()
    monkeypatch.setattr(Lake, "written", written)
    assert (lake.version("examples"), join()) == (before + 1, 0), "its one commit had been made"
    build_more(0)
    build_more(1)
    before_the_write(lambda: build_more(2))
    assert join() == 0, "the build was first"
    joined = []
    before_the_write(lambda: joined.append(join()))
    build_more(0)
    assert joined[0] > 3
    daily = build_examples(spark, config)
    rebuilt = build_examples(spark, make_config(examples={**RANDOM, "rebuild": True}))
    assert (daily["encoded_rows"], rebuilt["encoded_rows"]) == (0, 80)
    different = ("encoded_rows", "rebuilt", "examples_version")
    assert {**daily, **dict.fromkeys(different)} == {**rebuilt, **dict.fromkeys(different)}
    assert contents(lake, daily["examples_version"]) == contents(lake)
    before_the_write(lambda: lake.change("examples", lambda table: table.delete("user = 0"), {"job": "forget_users"}))
    build_more(0)
