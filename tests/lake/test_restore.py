"""An event that a corrected load no longer contains is restored from another load's rejected row."""

import json
import random
from datetime import timedelta
from itertools import count

import pytest

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.ingest.loads import Attempts, Load, identify_load, read_attempts
from mamdr_core.runtime.errors import MamdrError
from tests.lake.stored import rows_of, sorted_rows, stored

pytestmark = pytest.mark.slow

FEATURES = [
    {"name": "share", "kind": "numeric", "expression": "if(user = 'u1', double('NaN'), 1 / 3D)"},
    {"name": "place", "kind": "categorical", "expression": "concat(user, ' \"quoted\" é')", "buckets": 9},
]
SPLIT = {"split": {"smallest_domain": 1}, "shards": {"count": 2}}
LOADS = ("a", "b", "c", "d")


@pytest.fixture
def ingest(spark, make_log, make_config):
    """A function that ingests a load of some users, one event each (the first one's twice); the job's figures."""

    def bring(load, users, **keys):
        rows = [
            (f"u{n}", "i", "d", str(LOADS.index(load) % 2), f"2026-01-0{1 + n % 3} 10:00:00.00000{n}") for n in users
        ]
        quality = {"max_vanished_days": 9, "min_rows_ratio": 0, "max_rows_ratio": 0}
        config = make_config(make_log([*rows, rows[0]], load), features=FEATURES, quality=quality, **keys)
        return ingest_clicks(spark, config)

    return bring


@pytest.fixture
def found(spark, tmp_path):
    """A function that reads a lake: by user the load in clicks; and (load, user, rule, known load) of rejected rows."""
    names = {identify_load(spark, str(tmp_path / name)).id: name for name in LOADS}

    def read(lake):
        clicks = rows_of(lake.root, "clicks")
        by_user = {row["user"]: names[row["load"]] for row in clicks}
        assert len(by_user) == len(clicks)
        return by_user, sorted(
            (names[row["load"]], json.loads(row["row"])["user"], row["rule"], names.get(row["known_load"]))
            for row in rows_of(lake.root, "clicks_rejected")
        )

    return read


class Expected:
    """What clicks and clicks_rejected hold after some loads, event by event."""

    def __init__(self):
        self.clicks, self.copies, self.first, self.published = {}, {}, {}, []

    def bring(self, load, users):
        """File a load; returns how many events other loads get back by it."""
        self.published += [] if load in self.published else [load]
        users = [f"u{n}" for n in users]
        self.first[load] = users[0]
        for user in [user for user, holder in self.clicks.items() if holder == load]:
            del self.clicks[user]
        self.copies = {(name, user): holder for (name, user), holder in self.copies.items() if name != load}
        for user in users:
            if user in self.clicks:
                self.copies[load, user] = self.clicks[user]
            else:
                self.clicks[user] = load
        lost = {user for _, user in self.copies} - self.clicks.keys()
        for user in lost:
            self.clicks[user] = min((name for name, of in self.copies if of == user), key=self.published.index)
            del self.copies[self.clicks[user], user]
        for name, user in self.copies:
            self.copies[name, user] = self.clicks[user]
        return len(lost)

    def tables(self):
        repeated = [(load, user, "unique_event", None) for load, user in self.first.items()]
        known = [(load, user, "new_event", holder) for (load, user), holder in self.copies.items()]
        return self.clicks, sorted([*repeated, *known], key=str)


def killed_in(monkeypatch, number, job, *given, write="change", **keys):
    """Run a job that dies before its `number`-th write of a table by that method of Lake."""
    numbers, real = count(1), getattr(Lake, write)

    def write_or_die(*args):
        if next(numbers) == number:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(Lake, write, write_or_die)
        with pytest.raises(KeyboardInterrupt):
            job(*given, **keys)


def test_a_load_that_takes_the_days_of_a_killed_correction_completes_it(spark, ingest, found, lake_root, monkeypatch):
    ingest("a", [1, 2])
    ingest("b", [1, 3])
    killed_in(monkeypatch, 1, ingest, "a", [2])  # published without the second day; u1 is not restored for b
    assert ingest("c", [5], input={"replace": "days"})["restored"] == 1  # takes the third day, all that a still holds
    lake = Lake(spark, lake_root)
    assert found(lake)[0] == {"u1": "b", "u3": "b", "u5": "c"}
    # The killed attempt may still run: it stays open, for loads that replace its days.
    (row,) = (row for row in rows_of(lake_root, "loads") if row["status"] == "replacing")
    other, day = Load(0, "other"), timedelta(1)
    assert read_attempts(lake, other, [row["last_ds"]]) == Attempts(frozenset({row["first_ds"], row["last_ds"]}), True)
    for apart in ((), [row["last_ds"] + day], [row["first_ds"] - day]):
        assert read_attempts(lake, other, apart) == Attempts()


def test_a_correction_that_failed_and_was_undone_does_not_count_as_killed(
    spark, ingest, found, lake_root, monkeypatch, caplog
):
    ingest("a", [1, 2])
    lake = Lake(spark, lake_root)
    before = found(lake)
    real = Lake.written

    def write_fewer(self, table, note):
        version, rows = real(self, table, note)
        return version, rows - (table == "clicks")

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "written", write_fewer)
        with pytest.raises(MamdrError, match="the log changed while it was read"):
            ingest("a", [2])
    assert found(lake) == before
    statuses = [row["status"] for row in sorted(rows_of(lake_root, "loads"), key=lambda row: row["finished_at"])]
    assert statuses == ["published", "replacing", "stopped"]
    caplog.set_level("INFO")
    ingest("a", [2])
    assert "was killed" not in caplog.text


def test_the_next_load_with_an_event_gets_it_whenever_the_job_was_killed(
    spark, ingest, found, make_config, lake_root, monkeypatch
):
    lake, expected = Lake(spark, lake_root), Expected()
    config = make_config(features=FEATURES, examples=SPLIT)
    for load, users in (("a", [1, 2]), ("b", [1, 3]), ("c", [3, 1, 4])):
        ingest(load, users)
        expected.bring(load, users)
    build_examples(spark, config)

    def first_user():
        return [{**row, "load": None, "label": None} for row in rows_of(lake_root, "clicks") if row["user"] == "u1"]

    copy = first_user()
    killed_in(monkeypatch, 1, ingest, "a", [2])
    assert "u1" not in found(lake)[0]
    killed_in(monkeypatch, 2, ingest, "a", [2])
    assert found(lake)[0]["u1"] == "b"
    assert ingest("a", [2])["restored"] == 0, "that had been done before it was killed"
    assert expected.bring("a", [2]) == 1
    assert found(lake) == expected.tables()
    assert repr(first_user()) == repr(copy)
    built = build_examples(spark, config)
    assert (built["rebuilt"], built["examples"]) == ("", 4)
    draw = random.Random(166)
    restored = 0
    for number in range(3):
        load, users = draw.choice(LOADS), sorted(draw.sample(range(1, 6), draw.randrange(1, 4)))
        users.append(6 + LOADS.index(load))  # a load without an event of its own is stopped
        figures = ingest(load, users)
        assert figures["restored"] == expected.bring(load, users), (number, load, users)
        assert found(lake) == expected.tables(), (number, load, users)
        restored += figures["restored"]
    assert restored > 2
    built = build_examples(spark, config)
    everything = build_examples(spark, make_config(features=FEATURES, examples={**SPLIT, "rebuild": True}))
    assert (built["rebuilt"], built["examples"]) == ("", everything["examples"])
    tables = (stored(lake_root, "examples", each["examples_version"]) for each in (built, everything))
    daily, rebuilt = (repr(sorted_rows(table, "shard")) for table in tables)  # NaN is equal to itself as text alone
    assert daily == rebuilt


def test_a_day_that_is_replaced_whole_gives_events_back_to_other_days(ingest, found, spark, lake_root):
    ingest("a", [3])
    ingest("b", [3, 1], columns={"ds": "date'2026-01-09'"})
    figures = ingest("c", [6], input={"replace": "days"})
    assert figures["restored"] == 1
    clicks, rejected = found(Lake(spark, lake_root))
    assert clicks == {"u3": "b", "u1": "b", "u6": "c"}
    assert [row[2] for row in rejected] == ["unique_event"] * 2


def test_days_that_killed_corrections_took_away_are_known_to_the_next(spark, ingest, found, lake_root, monkeypatch):
    """u1, u4 and u7 are of the second day, u2, u5 and u8 of the third, u3 and u6 of the first."""
    lake, expected, whole_days = Lake(spark, lake_root), Expected(), {"replace": "days"}
    killed_in(monkeypatch, 1, ingest, "a", [1, 2], write="append")  # published, and not recorded
    expected.bring("a", [1, 2])
    for load, users in (("b", [1, 3]), ("c", [1, 6])):
        ingest(load, users)
        expected.bring(load, users)
    killed_in(monkeypatch, 1, ingest, "a", [2, 5])  # published without the second day, and nothing is restored
    assert "u1" not in found(lake)[0]
    assert ingest("a", [2, 5])["restored"] == expected.bring("a", [2, 5]) == 1
    expected.published = ["b", "c", "a"]  # a was recorded last
    assert found(lake) == expected.tables()
    killed_in(monkeypatch, 1, ingest, "b", [3])  # it had brought no click of the second day, and got one back
    assert "u1" not in found(lake)[0]
    assert ingest("b", [3])["restored"] == expected.bring("b", [3]) == 1
    assert found(lake) == expected.tables()
    ingest("d", [8, 3], columns={"ds": "if(user = 'u3', date'2026-01-09', to_date(ts))"})
    killed_in(monkeypatch, 1, ingest, "a", [6], input=whole_days)  # replaces the first day of b too
    killed_in(monkeypatch, 1, ingest, "a", [7], input=whole_days)
    assert "u3" not in found(lake)[0]
    assert ingest("a", [7], input=whole_days)["restored"] == 1
    clicks, rejected = found(lake)
    assert clicks == {"u3": "d", "u7": "a", "u8": "d"}
    assert [(load, user) for load, user, rule, _ in rejected if rule == "new_event"] == []
    lines = [row for row in rows_of(lake_root, "loads") if row["status"] == "replacing"]
    days = sorted((row["first_ds"].day, row["last_ds"].day) for row in lines)
    assert days == [(1, 2), (1, 2), (1, 3), (2, 3)]
