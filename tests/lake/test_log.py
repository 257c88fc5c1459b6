"""A table's log is read without a job, as far back as one can go commit by commit; older commits are read by Spark."""

import json

import pytest

from mamdr_core.lake.core import log
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.log import EMPTIED, Log

pytestmark = pytest.mark.slow

RESTORE = {"operation": "RESTORE", "operationParameters": {"version": "1", "timestamp": None}}
COMMITS = [
    *({"userMetadata": json.dumps({"a": 0})}, {"userMetadata": json.dumps({"b": 1})}),
    *({"userMetadata": json.dumps({"a": 2})}, RESTORE, {"userMetadata": 'another tool\'s "b"'}, {}),
    *({"userMetadata": json.dumps({EMPTIED: True})}, {}, {"userMetadata": json.dumps({"b": 8})}),
]


@pytest.mark.parametrize("recent", [1, 3, 100])
def test_the_newest_note_is_one_that_a_version_consists_of(spark, tmp_path, monkeypatch, recent):
    monkeypatch.setattr(log, "RECENT", recent)
    folder = tmp_path / "a table" / "_delta_log"
    folder.mkdir(parents=True)
    for number, commit in enumerate(COMMITS):
        actions = ({"commitInfo": {"operation": "WRITE", "timestamp": 1, **commit}}, {"add": {"path": f"x{number}"}})
        (folder / f"{number:020}.json").write_text("\n".join(map(json.dumps, actions)))
    found = Log(spark, str(folder.parent))
    newest = {key: [found.newest_note(key, version) for version in range(len(COMMITS))] for key in "ab"}
    first, second = (0, {"a": 0}), (2, {"a": 2})
    assert newest["a"] == [first, first, second, first, first, first, None, None, None]
    b = (1, {"b": 1})
    assert newest["b"] == [None, b, b, b, b, b, None, None, (8, {"b": 8})]


def test_a_folder_is_listed_in_as_many_calls_whatever_it_holds(spark, tmp_path, jvm_calls):
    counts = []
    for number in (2, 50):
        folder = tmp_path / f"{number} files"
        folder.mkdir()
        names = {f"file {place} é%20" for place in range(number)}
        for name in names:
            (folder / name).touch()
        files = Files(spark, str(folder))
        with jvm_calls() as calls:
            assert set(files.children()) == names
            assert len(Files(spark, f"{folder}/*").matches()) == number
        counts.append(calls["calls"])
    assert counts[0] == counts[1]
    assert Files(spark, f"{tmp_path}/none*").matches() == []
