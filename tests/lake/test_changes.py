"""What the logs of clicks and examples show of loads and builds, whatever other jobs wrote between them."""

import json

import pytest

from mamdr_core.lake.core.log import EMPTIED, Log
from mamdr_core.lake.core.notes import EXPIRED, INCOMPLETE, MERGED, load_note
from mamdr_core.lake.examples.increments import STATE, find_changes, last_build


class MadeLog(Log):
    """A log of given commits, from version 0 on."""

    def __init__(self, *commits):
        self._made = commits

    def version(self):
        return len(self._made) - 1

    def commit(self, version):
        return self._made[version]


def commit(note=None, operation="WRITE", removed=0, restored=None):
    made = {"operation": operation, "operationMetrics": {"numRemovedFiles": str(removed)}}
    if note is not None:
        made["userMetadata"] = json.dumps(note)
    if restored is not None:
        made |= {"operation": "RESTORE", "operationParameters": {"version": str(restored), "timestamp": None}}
    return made


def load(number, removed=0, days=()):
    return commit(load_note(number, days), removed=removed)


def changed(*commits, after=0, to=None):
    """Loads, replaced loads and days that came after a version, or the reason why all must be encoded."""
    log = MadeLog(*commits)
    changes = find_changes(log, after, log.version() if to is None else to)
    return changes.reason or (sorted(changes.loads), sorted(changes.replaced), sorted(changes.whole_days))


def test_loads_that_came_and_those_that_replaced_rows_are_distinguished():
    assert changed(load(1), load(2), load(1, removed=3)) == ([1, 2], [1], [])
    assert changed(load(1), load(2), after=1) == ([], [], [])
    assert changed(load(1), load(2), load(3), to=1) == ([2], [], [])


def test_jobs_that_change_no_row_or_the_same_in_examples_need_no_build():
    quiet = (
        commit(operation="OPTIMIZE"),
        commit(operation="SET TBLPROPERTIES"),
        commit({"job": "forget_users"}, "MERGE"),
        commit({"job": "maintain_lake", EXPIRED: "2026-01-01"}, "DELETE"),
    )
    assert changed(load(1), *quiet, load(2)) == ([2], [], [])


def test_what_cannot_be_known_is_a_reason():
    assert changed(load(1), commit(operation="DELETE")) == "version 1 of clicks (DELETE) was not written by a load"
    assert changed(load(1), {}) == "version 1 of clicks (its log was deleted) was not written by a load"
    assert changed(load(1), commit({"job": "forget_users", INCOMPLETE: True})).endswith("users without an index")
    assert changed(load(1), load(2), after=1, to=0).startswith("examples were built from version 1 of clicks")


def test_a_load_that_was_taken_back_counts_only_where_it_was_read():
    taken_back = (load(1), load(2), load(3, removed=1), commit(restored=1))
    assert changed(*taken_back) == ([2], [], [])
    assert changed(*taken_back, after=1) == ([], [], [])
    assert changed(*taken_back, after=2) == ([3], [3], [])  # a build between has its rows: those of before come back
    assert changed(*taken_back, load(4), after=3) == ([4], [], [])
    # Restored to what a quiet commit made, and without a note.
    assert changed(load(1), commit(operation="OPTIMIZE"), load(2), commit(restored=1), after=2) == ([2], [2], [])


def build(number):
    return commit({STATE: {"number": number}, "build": f"b{number}"})


MERGE = commit({MERGED: 2, STATE: {"number": 2}})


@pytest.mark.parametrize(
    ("commits", "number", "built", "counted_by"),
    [
        ((build(1),), 1, 1, "b1"),
        ((build(1), MERGE, commit(operation="OPTIMIZE")), 2, 1, "b1"),
        ((build(1), MERGE, build(3), commit(restored=1)), 3, 1, "b1"),
        ((build(1), build(2), commit(restored=0)), 2, 1, "b1"),
        ((build(1), build(2), commit(restored=0), build(3)), 3, 3, "b3"),
        ((build(1), commit({"job": "forget_users"}, "DELETE")), 1, 1, ""),
        ((build(1), commit({EXPIRED: "2026-01-01"}, "DELETE"), MERGE), 2, 1, ""),
    ],
)
def test_the_build_whose_rows_examples_hold_is_found(commits, number, built, counted_by):
    found = last_build(MadeLog(*commits))
    assert (found.number, found.note[STATE]["number"], found.reason) == (number, built, "")
    assert found.counted_by == counted_by, "the build whose counts are still right"


def test_a_build_that_missed_rows_of_another_gets_its_number_not_a_later_one():
    found = last_build(MadeLog(build(1), build(2)), at=0)
    assert (found.number, found.note[STATE]["number"]) == (1, 1)


def test_where_no_build_can_be_continued_the_reason_is_given():
    assert last_build(MadeLog()).reason == "there are no examples yet"
    emptied = last_build(MadeLog(build(1), commit({EMPTIED: True}, "DELETE")))
    assert (emptied.number, emptied.reason) == (1, "there are no examples yet")
    assert "version 1 of examples was not written by a build" in last_build(MadeLog(build(1), commit())).reason
