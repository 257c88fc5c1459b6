"""A load's figures add up, day by day and rule by rule."""

from datetime import date

from mamdr_core.lake.ingest.tally import Tally

DAYS = [date(2026, 1, day) for day in (10, 2, 30)]


def test_rows_are_valid_or_rejected():
    tally = Tally()
    for day in DAYS:
        tally.add((day, None), 10, 2)
        tally.add((day, "user_present"), 1)
    tally.add((None, "ds_present"), 4)
    tally.add((DAYS[0], None), -10, -2)
    tally.add((DAYS[0], "unique_event"), 10, 2)
    assert (tally.rows_in, tally.valid, tally.rejected, tally.clicks, tally.ctr) == (37, 20, 17, 4, 0.2)
    assert tally.by_rule == {"ds_present": 4, "unique_event": 10, "user_present": 3}
    assert list(tally.valid_by_day.items()) == [(DAYS[1], 10), (DAYS[2], 10)]
    assert tally.days == {*DAYS, None}
    assert tally.rejected_days == {*DAYS, None}


def test_without_valid_rows_there_is_no_ctr():
    assert Tally().ctr is None
    assert (Tally().rows_in, Tally().valid_by_day) == (0, {})
