"""Duplicate events are found in one pass, decided by their columns rather than their hash, and counted accordingly."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from pyspark.sql import functions as F

from mamdr_core.config.lake import InputColumns, InputSettings
from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.session import overriding
from mamdr_core.lake.ingest import scan
from mamdr_core.lake.ingest.clicks import apply_rules, parse_rows, raw_json, select_clicks
from mamdr_core.lake.ingest.deduplicate import deduplicate, in_spans
from mamdr_core.lake.ingest.rules import rules_for
from mamdr_core.lake.ingest.scan import scan_rows

pytestmark = pytest.mark.slow

TIME, LATER = "2026-01-01 10:00:00", "2026-01-01 11:00:00"
SETTINGS = InputSettings(columns=InputColumns(label="label", event_time="timestamp(ts)"))


def rules_of(settings=SETTINGS):
    return rules_for(settings, (), datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture
def check(spark, make_log):
    def make(rows, settings=SETTINGS, name="raw"):
        parsed = parse_rows(spark.read.parquet(make_log(rows, name)), settings.columns)
        return apply_rules(parsed, rules_of(settings))

    return make


def decide(checked, others=None, has_times=True, tasks=1, on_driver=False):
    """(rule, label, raw row) of every row, sorted; and the counts by rule (None: valid)."""
    with kept_frames() as keep:
        found = scan_rows(checked, rules_of(), has_times, keep, on_driver)
        decided = deduplicate(checked, found, others, keep)
        if decided.contested is not None:
            assert decided.contested._jdf.queryExecution().toRdd().getNumPartitions() == tasks
        rows = decided.valid.select("_rule", "label", raw_json()).collect()
        found = sorted(((row[0], row[1], row[2]) for row in rows), key=str)
        counts = {None: decided.counts.valid, **decided.counts.by_rule}
        assert decided.counts.clicks == sum(label for rule, label, _ in found if rule is None)
    counted = {rule: sum(row[0] == rule for row in found) for rule in counts}
    assert counted == counts
    return found, counts


def test_a_duplicate_event_is_kept_once_and_a_click_wins_whatever_the_order(check):
    rows = [
        ("u", "i", "d", "0", TIME),
        ("u", "i", "d", "1", TIME),
        ("u", "i", "d", "true", TIME),
        ("u", "i", "d", "1", LATER),
        ("v", "i", "d", "0", TIME),
        (None, "i", "d", "1", TIME),
        (None, "i", "d", "1", TIME),
    ]
    found = [decide(check(order)) for order in (rows, rows[::-1])]
    assert found[0] == found[1]
    assert found[0][1] == {None: 3, "unique_event": 2, "user_present": 2}
    assert sorted(label for rule, label, _ in found[0][0] if rule is None) == [0, 1, 1]


def test_without_a_time_rows_are_no_duplicates(check):
    settings = InputSettings(columns=InputColumns(label="label"))
    rows = [("u", "i", "d", "1", None)] * 2 + [("u", "i", "d", "5", None)]
    assert decide(check(rows, settings), has_times=False)[1] == {None: 2, "label_binary": 1}


def test_an_event_on_another_declared_day_is_a_duplicate_too(check):
    columns = InputColumns(label="label", event_time="timestamp_seconds(0)", ds="to_date(ts)")
    settings = InputSettings(columns=columns, earliest=date(1970, 1, 1))
    rows = [("u", "i", "d", "0", "2026-01-01"), ("u", "i", "d", "1", "2026-01-02"), ("v", "i", "d", "0", "2026-01-01")]
    found, counts = decide(check(rows, settings))
    assert counts == {None: 2, "unique_event": 1}
    assert [label for rule, label, _ in found if rule] == [0]


def test_an_event_of_another_load_is_not_new_and_others_stay(check):
    others = select_clicks(check([("u", "i", "d", "0", TIME), ("x", "i", "d", "0", TIME)], name="others"), 1)
    rows = [
        *[("u", "i", "d", "1", TIME)] * 2,
        *[("v", "i", "d", "1", TIME)] * 2,
        ("x", "i", "d", "1", TIME),
        ("x", "i", "d", "1", LATER),
    ]
    assert decide(check(rows), others)[1] == {None: 2, "new_event": 2, "unique_event": 2}


def test_events_whose_hashes_collide_are_all_kept(check, monkeypatch):
    """All keys are one: only the true columns distinguish events."""
    for module in ("clicks", "deduplicate"):
        monkeypatch.setattr(f"mamdr_core.lake.ingest.{module}.hash64", lambda *parts: F.xxhash64(F.lit(1)))
    rows = [(f"u{n}", "i", "d", "1", TIME) for n in range(5)]
    others = select_clicks(check([("u3", "i", "d", "0", TIME), ("x", "i", "d", "0", TIME)], name="others"), 1)
    assert decide(check(rows))[1] == {None: 5}
    assert decide(check([*rows, rows[0]]), others)[1] == {None: 4, "new_event": 1, "unique_event": 1}


def test_many_contested_keys_are_decided_alike_by_several_tasks(spark, check, monkeypatch):
    rows = [(f"u{n % 20}", "i", "d", str(n % 2), TIME) for n in range(30)]
    few = decide(check(rows))
    monkeypatch.setattr("mamdr_core.lake.ingest.deduplicate.SMALL", 0)
    monkeypatch.setattr("mamdr_core.lake.ingest.deduplicate.ROWS_A_TASK", 7)
    with overriding(spark, {"spark.sql.adaptive.enabled": False}):  # which joins tasks of few bytes
        assert decide(check(rows), tasks=3) == few
    assert few[1] == {None: 20, "unique_event": 10}


def test_other_loads_are_asked_about_the_times_of_each_day_alone(spark, check):
    times = spark.sql("SELECT explode(array(0L, 5L, 9L, 100L, 150L)) micros").selectExpr(
        "micros", "timestamp_micros(micros) event_time"
    )
    assert [row["micros"] for row in times.where(in_spans([(5, 9), (100, 120)])).collect()] == [5, 9, 100]
    assert [row["micros"] for row in times.where(in_spans([(n, n) for n in range(5, 101)])).collect()] == [5, 9, 100]
    assert times.where(in_spans([])).count() == 0
    hour = 3_600_000_000
    start = (date(2026, 1, 1) - date(1970, 1, 1)).days * 24 * hour
    old = ("u", "i", "d", "0", "1969-12-31 22:30:00")
    rows = [("u", "i", "d", "1", TIME), ("u", "i", "d", "0", LATER), ("u", "i", "d", "7", "2026-01-01 20:00:00"), old]
    settings = replace(SETTINGS, earliest=date(1960, 1, 1))
    with kept_frames() as keep:
        times = scan_rows(check(rows, settings), rules_of(settings), True, keep).times
        none = scan_rows(check(rows, settings), rules_of(settings), False, keep).times
        filed = replace(SETTINGS.columns, ds="date'2026-01-03'")
        by_ds = scan_rows(check(rows, replace(settings, columns=filed)), rules_of(settings), True, keep).times
    limits = (start + 10 * hour, start + 12 * hour - 1)
    assert times == {date(2026, 1, 1): limits, date(1969, 12, 31): (-2 * hour, -hour - 1)}
    assert by_ds == {date(2026, 1, 3): (-2 * hour, limits[1])}
    assert none == {}


def test_a_scan_on_the_driver_and_one_of_many_tasks_and_rounds_find_the_same(check, monkeypatch):
    rows = [(f"u{n % 97}", "i", "d", str(n % 3), TIME) for n in range(200)]
    one = decide(check(rows))
    with monkeypatch.context() as patched:
        patched.setattr(scan, "_many", lambda *_: 1 / 0)
        assert decide(check(rows), on_driver=True) == one
    monkeypatch.setattr(scan, "TASK_BYTES", 100)
    monkeypatch.setattr(scan, "PACKED_KEYS", 7)
    assert decide(check(rows).repartition(5)) == one
