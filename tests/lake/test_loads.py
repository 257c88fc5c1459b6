"""A load replaces its own rows, or whole days where that is asked for, and leaves all others alone."""

from collections import Counter
from pathlib import Path

import pytest

from mamdr_core.lake.ingest.arrivals import ingest_arrived
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.ingest.loads import identify_load
from mamdr_core.runtime.errors import MamdrError
from tests.lake.stored import rows_of, sorted_rows, stored

pytestmark = pytest.mark.slow

DAY_1, DAY_2 = "2026-01-01", "2026-01-02"


def rows(day, users, label="1"):
    return [(user, "i", "d", label, f"{day} 10:00:00") for user in users]


def clicks_of(root):
    """(user, day) of every click, sorted."""
    return sorted((row["user"], str(row["ds"])) for row in rows_of(root, "clicks"))


def rejected_of(root):
    """Rules by number of rows."""
    return Counter(row["rule"] for row in rows_of(root, "clicks_rejected"))


@pytest.mark.parametrize("order", ["day then late", "late then day"])
def test_late_rows_are_added_to_their_day_and_reruns_change_nothing(spark, make_log, make_config, lake_root, order):
    faulty = [(None, "i", "d", "1", f"{DAY_1} 11:00:00")]
    day = make_config(make_log([*rows(DAY_1, ["a", "b"]), *faulty], "day"))
    late = make_config(make_log([*rows(DAY_1, ["b", "late"]), *rows(DAY_2, ["c"]), *faulty], "late"))
    first, second = (day, late) if order == "day then late" else (late, day)
    ingest_clicks(spark, first)
    figures = ingest_clicks(spark, second)
    assert figures["rejected_by_rule"] == {"new_event": 1, "user_present": 1}
    tables = ("clicks", "clicks_rejected")
    before = [sorted_rows(stored(lake_root, name)) for name in tables]
    assert clicks_of(lake_root) == [("a", DAY_1), ("b", DAY_1), ("c", DAY_2), ("late", DAY_1)]
    assert rejected_of(lake_root) == {"user_present": 2, "new_event": 1}
    ingest_clicks(spark, day)  # the event of both loads is this load's in one order, and the other's in the other
    assert [sorted_rows(stored(lake_root, name)) for name in tables] == before


def test_a_corrected_source_also_replaces_rows_of_days_that_it_no_longer_has(spark, make_log, make_config, lake_root):
    """An event that only a rejected row of another load has then is restored."""
    ingest_clicks(spark, make_config(make_log([*rows(DAY_1, ["a"]), *rows(DAY_2, ["b"]), ("x", "i", "d", "7", "?")])))
    other = make_config(make_log([*rows(DAY_1, ["a"]), *rows(DAY_2, ["b", "o"])], "other"))
    assert ingest_clicks(spark, other)["rejected_by_rule"] == {"new_event": 2}
    corrected = make_log(rows(DAY_2, ["b", "c"]))
    with pytest.raises(MamdrError, match=r"1 days that this path had before are missing, .*removed: 2026-01-01 1"):
        ingest_clicks(spark, make_config(corrected))
    expected = [("a", DAY_1), ("b", DAY_2), ("c", DAY_2), ("o", DAY_2)]
    with_loss = make_config(f"{corrected}/", quality={"max_vanished_days": 1})
    figures = ingest_clicks(spark, with_loss)
    assert clicks_of(lake_root) == expected
    assert rejected_of(lake_root) == {"new_event": 1}
    assert (figures["restored"], figures["restorable"]) == (1, 0)


def test_files_that_arrive_are_loaded_once(spark, make_log, make_config, lake_root, tmp_path):
    make_log(rows(DAY_1, ["a", "b"]), "inbox/one")
    unfinished = Path(make_log(rows(DAY_2, ["b", "c"]), "inbox/_two"))
    config = make_config(str(tmp_path / "inbox"), input={"arriving": True})
    first = ingest_arrived(spark, config)
    unfinished.rename(tmp_path / "inbox" / "two")
    second, third = ingest_arrived(spark, config), ingest_arrived(spark, config)
    names = ("loads", "rows_in", "clicks", "clicks_version")
    assert [[each[name] for name in names] for each in (first, second, third)] == [
        [1, 2, 2, 0], [1, 2, 2, 1], [0, 0, 0, 1]
    ]  # fmt: skip
    assert clicks_of(lake_root) == [("a", DAY_1), ("b", DAY_1), ("b", DAY_2), ("c", DAY_2)]
    with pytest.raises(MamdrError, match="no file or folder has arrived there"):
        ingest_arrived(spark, make_config(str(tmp_path / "nowhere*"), input={"arriving": True}))


def test_whole_days_are_replaced_whoever_filed_them(spark, make_log, make_config, lake_root):
    ingest_clicks(
        spark, make_config(make_log([*rows(DAY_1, ["a"]), *rows(DAY_2, ["b"]), *rows(DAY_2, [None])], "both"))
    )
    path = make_log([*rows(DAY_2, ["b", "c"]), *rows(DAY_1, ["", ""])], "day 2")
    ingest_clicks(spark, make_config(path, input={"replace": "days"}))
    assert clicks_of(lake_root) == [("a", DAY_1), ("b", DAY_2), ("c", DAY_2)]
    assert rejected_of(lake_root) == {"user_present": 2}
    loads = {row["load"] for row in rows_of(lake_root, "clicks") if str(row["ds"]) == DAY_2}
    assert loads == {identify_load(spark, path).id}


def test_an_event_of_another_day_is_known_too(spark, make_log, make_config, lake_root):
    ingest_clicks(spark, make_config(make_log(rows(DAY_1, ["a", "b"]), "one")))
    month = {"ds": "trunc(timestamp(ts), 'year') + INTERVAL 40 DAY"}
    figures = ingest_clicks(spark, make_config(make_log(rows(DAY_1, ["b", "c"]), "two"), month))
    assert figures["rejected_by_rule"] == {"new_event": 1}
    assert clicks_of(lake_root) == [("a", DAY_1), ("b", DAY_1), ("c", "2026-02-10")]


def test_a_source_is_one_load_however_its_path_is_written(spark, tmp_path: Path):
    paths = (f"{tmp_path}/raw", f"{tmp_path}/raw/", f"file://{tmp_path}/raw/", f"file:{tmp_path}//raw")
    assert len({identify_load(spark, path).id for path in paths}) == 1
    assert identify_load(spark, f"{tmp_path}/raw2").id != identify_load(spark, paths[0]).id
    strange = f"{tmp_path}/'; DROP TABLE clicks"
    assert identify_load(spark, strange).source == strange
