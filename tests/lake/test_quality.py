"""The quality check stops implausible loads, with the figures, and lets ordinary days pass."""

import re
from datetime import date, timedelta

import pytest

from mamdr_core.config.lake import QualitySettings
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.ingest.load_counts import LoadCounts
from mamdr_core.lake.ingest.quality import failed_checks
from mamdr_core.runtime.errors import MamdrError

DAY = date(2026, 1, 8)
WEEK_BEFORE = {DAY - timedelta(days=n): 100 for n in range(1, 8)}


def check(valid=None, rejected=None, clicks=0, others=(), shared_days=True, vanished=(), has_label=True, **settings):
    """The failed checks of valid rows by day and rejected rows by rule."""
    counts = LoadCounts()
    for day, rows in ({DAY: 100} if valid is None else valid).items():
        counts.add((day, None), rows)
    for rule, rows in (rejected or {}).items():
        counts.add((DAY, rule), rows)
    counts.clicks = clicks
    limits = QualitySettings(**settings)
    return failed_checks(counts, limits, has_label, dict(others), shared_days, dict(vanished), lambda: "; a time")


def test_an_ordinary_day_passes():
    assert check(rejected={"user_present": 11}, clicks=5, others=WEEK_BEFORE, min_ctr=0.05, max_ctr=0.05) == []


def test_too_many_rejected_rows_are_named_by_rule():
    assert check(rejected={"user_present": 20, "label_binary": 5}) == [
        "25 of 125 rows (20.00%) are rejected, more than quality.max_rejected 0.1: label_binary 5, user_present 20"
    ]
    assert check(rejected={"user_present": 25}, max_rejected=0.2) == []
    assert check(rejected={"event_time_present": 90})[0].endswith("event_time_present 90; a time")
    assert check(rejected={"user_present": 5, "unique_event": 100}) == [], "one of each is kept"


def test_rows_that_other_loads_brought_lead_to_the_setting_that_replaces_them():
    hint = "most are in clicks already, from other loads: to replace their days, set input.replace=days"
    assert hint in check(rejected={"new_event": 300})[0]
    assert hint in check(valid={}, rejected={"new_event": 300})[0]
    assert hint not in check(rejected={"new_event": 30, "user_present": 60})[0]


def test_a_ctr_out_of_bounds_is_named_and_needs_a_label():
    assert check(clicks=1, min_ctr=0.02) == ["the CTR 0.01 (1 of 100) is below quality.min_ctr 0.02"]
    assert check(clicks=90, max_ctr=0.5) == ["the CTR 0.9 (90 of 100) is above quality.max_ctr 0.5"]
    assert check(clicks=90, max_ctr=0.5, has_label=False) == []


def test_rows_are_compared_with_the_mean_of_the_days_that_hold_any():
    few = "too few rows against the mean of the days of the week before, quality.min_rows_ratio 0.1: "
    assert check({DAY: 9}, others=WEEK_BEFORE) == [few + "2026-01-08 9 (0.09 of 100)"]
    assert check({DAY: 10}, others=WEEK_BEFORE) == []
    assert check({DAY: 9}, others={DAY - timedelta(days=3): 100}) == [few + "2026-01-08 9 (0.09 of 100)"]
    assert check({DAY: 9}, others={DAY - timedelta(days=8): 100}) == []
    assert check({DAY: 9}, others=WEEK_BEFORE, min_rows_ratio=0) == []
    many = "too many rows against the mean of the days of the week before, quality.max_rows_ratio 10: "
    assert check({DAY: 1001}, others=WEEK_BEFORE) == [many + "2026-01-08 1001 (10 of 100)"]
    assert check({DAY: 1001}, others=WEEK_BEFORE, max_rows_ratio=0) == []


def test_late_rows_count_with_the_rows_that_the_day_has():
    others = WEEK_BEFORE | {DAY: 95}
    assert check({DAY: 2}, others=others) == []
    assert len(check({DAY: 2}, others=others, shared_days=False)) == 1


def test_a_few_rows_of_clocks_ahead_are_no_day():
    assert check({DAY: 100, DAY + timedelta(days=1): 3}, others=WEEK_BEFORE) == []


def test_days_that_a_path_no_longer_holds_are_named():
    gone = {DAY - timedelta(days=n): 50 + n for n in range(1, 5)}
    assert check(vanished=gone) == [
        "4 days that this path had before are missing, more than quality.max_vanished_days 0, and their rows "
        "would be removed: 2026-01-04 54, 2026-01-05 53, 2026-01-06 52 and 1 more; load each day from its own path"
    ]
    assert check(vanished=gone, max_vanished_days=4) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_rejected": 1.5}, "max_rejected must be in"),
        ({"min_ctr": 0.5, "max_ctr": 0.4}, "min_ctr 0.5 is greater than max_ctr 0.4"),
        ({"min_rows_ratio": 2, "max_rows_ratio": 1}, "must be >= 0 and ordered"),
        ({"max_vanished_days": -1}, "max_vanished_days must be >= 0"),
    ],
)
def test_limits_that_cannot_be_met_are_refused(setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        QualitySettings(**setting)


@pytest.mark.slow
def test_a_stopped_load_is_one_line_with_every_figure_and_changes_no_click(spark, make_log, make_config, lake_root):
    def rows(day, count, label="0"):
        return [(f"u{n}", "i", "d", label, f"{day} 10:{n // 60:02d}:{n % 60:02d}") for n in range(count)]

    ingest_clicks(spark, make_config(make_log(rows("2026-01-01", 100), "one")))
    lake = Lake(spark, lake_root)
    before = lake.version("clicks"), lake.version("clicks_rejected")
    bad = [*rows("2026-01-02", 5, "1"), (None, "i", "d", "1", "2026-01-02 10:00:00")]
    quality = {"max_rejected": 0.1, "max_ctr": 0.9}
    with pytest.raises(MamdrError) as error:
        ingest_clicks(spark, make_config(make_log(bad, "two"), quality=quality))
    message = str(error.value)
    assert message.partition("two is not published: ")[2].split("; ") == [
        "1 of 6 rows (16.67%) are rejected, more than quality.max_rejected 0.1: user_present 1",
        "the CTR 1 (5 of 5) is above quality.max_ctr 0.9",
        "too few rows against the mean of the days of the week before, quality.min_rows_ratio 0.1: "
        "2026-01-02 5 (0.05 of 100)",
    ]
    assert "\n" not in message
    assert (lake.version("clicks"), lake.version("clicks_rejected")) == before
    line = lake.read("loads").where("status = 'stopped'").first()
    assert (line["rows_in"], line["clicks"], line["rejected"], line["clicks_version"]) == (6, 5, 1, None)
    assert message.endswith(line["reason"])
