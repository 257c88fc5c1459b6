"""A load's figures add up, day by day and rule by rule."""

from datetime import date

from mamdr_core.lake.ingest.load_counts import LoadCounts

DAYS = [date(2026, 1, day) for day in (10, 2, 30)]


def test_rows_are_valid_or_rejected():
    counts = LoadCounts()
    for day in DAYS:
        counts.add((day, None), 10, 2)
        counts.add((day, "user_present"), 1)
    counts.add((None, "ds_present"), 4)
    counts.add((DAYS[0], None), -10, -2)
    counts.add((DAYS[0], "unique_event"), 10, 2)
    assert (counts.rows_in, counts.valid, counts.rejected, counts.clicks, counts.ctr) == (37, 20, 17, 4, 0.2)
    assert counts.by_rule == {"ds_present": 4, "unique_event": 10, "user_present": 3}
    assert list(counts.valid_by_day.items()) == [(DAYS[1], 10), (DAYS[2], 10)]
    assert counts.days == {*DAYS, None}
    assert counts.rejected_days == {*DAYS, None}


def test_without_valid_rows_there_is_no_ctr():
    assert LoadCounts().ctr is None
    assert (LoadCounts().rows_in, LoadCounts().valid_by_day) == (0, {})
