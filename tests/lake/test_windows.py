"""Windows of days: which rows count, and in which split, from the newest day alone."""

from datetime import date

from mamdr_core.config.lake import ExamplesSettings, SplitSettings
from mamdr_core.lake.examples.windows import Window, noted_window, window_of, window_sql

NEWEST = date(2026, 3, 10)
MOVING = SplitSettings(kind="time", val_days=1, test_days=2)


def test_a_moving_split_ends_at_until_or_the_newest_day():
    window = window_of(ExamplesSettings(split=MOVING, days=9), NEWEST)
    limits = {split: window.limits(split) for split in ("train", "val", "test")}
    assert limits == {
        "train": (date(2026, 3, 2), date(2026, 3, 7)),
        "val": (date(2026, 3, 8), date(2026, 3, 8)),
        "test": (date(2026, 3, 9), None),
    }
    assert window.limits("train", train_days=1) == (date(2026, 3, 7), date(2026, 3, 7))
    assert window.limits("train", train_days=99) == limits["train"], "the window has no more days"
    assert window.limits("val", train_days=1) == limits["val"]
    earlier = window_of(ExamplesSettings(split=MOVING, until=date(2026, 3, 5)), NEWEST)
    assert (earlier.limits("train"), earlier.limits("test")) == ((None, date(2026, 3, 2)), (date(2026, 3, 4), None))
    assert noted_window({"window": window.noted()}) == window


def test_stored_splits_are_limited_by_days_alone():
    assert window_of(ExamplesSettings(), NEWEST).limits("train") == (None, None)
    week = window_of(ExamplesSettings(days=7), NEWEST)
    assert {week.limits(split) for split in ("train", "val", "test")} == {(date(2026, 3, 4), None)}
    assert window_sql(week) == ("", "(ds >= DATE'2026-03-04')")
    assert window_sql(Window()) == ("", "true")
