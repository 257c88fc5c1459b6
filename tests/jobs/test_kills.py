"""A job that is killed in the middle of a write, and run again, leaves the tables of an undisturbed run."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import psutil
import pyarrow.parquet as pq
import pytest

from mamdr_core.config.job_config import Config, with_values
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks
from tests.jobs.killing import LIMIT, OF_THE_RUN, make_sources, start

pytestmark = pytest.mark.slow

WRITES = {
    "ingest_clicks": ("clicks_rejected", "clicks", "loads"),
    "build_examples": ("users", "vocabulary_city", "user_features", "examples"),
}
"""Tables that a job writes, in its order; of the vocabularies, which one function writes, the first and the last."""
CALLED = {"ingest_clicks": ingest_clicks, "build_examples": build_examples}
"""What the jobs call. It runs in the tests' session, where it takes a fraction of what a job of its own takes."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, object]:
    return make_sources(tmp_path_factory.mktemp("raw"))


def wait_until(process: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def freeze(process: subprocess.Popen[bytes]) -> None:
    """Stop all processes of the job, so that the disk holds what it would hold had they been killed now."""
    os.killpg(process.pid, signal.SIGSTOP)
    top = psutil.Process(process.pid)
    deadline = time.monotonic() + LIMIT
    while any(runs(each, process.pid) for each in (top, *top.children(recursive=True))):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def runs(process: psutil.Process, group: int) -> bool:
    """Whether a process of a group is not stopped; Python workers are groups of their own."""
    try:
        stopped = process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
        return not stopped and os.getpgid(process.pid) == group
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


def data_files(root: Path, table: str) -> set[Path]:
    return {path for path in (root / table).rglob("*.parquet") if "_delta_log" not in path.parts}


def commits(root: Path, table: str) -> set[Path]:
    return set((root / table / "_delta_log").glob("*.json"))


def kill_in_every_write(job: str, root: Path, sources: dict[str, object]) -> list[Path]:
    """The lakes that a job leaves if it is killed in one of its writes: copies of the frozen job's, one a write."""
    process, lakes = start(job, root, sources), []
    for table in WRITES[job]:
        files, before = data_files(root, table), commits(root, table)
        # Its first data file is there, and the commit that names it is not.
        wait_until(process, lambda table=table, files=files: bool(data_files(root, table) - files))
        freeze(process)
        assert len(commits(root, table) - before) <= (0 if before else 1)  # the empty table's
        if table == WRITES[job][-1]:
            os.killpg(process.pid, signal.SIGKILL)
            assert process.wait(LIMIT) == -signal.SIGKILL
            lakes.append(root)
        else:
            lakes.append(root.with_name(f"{root.name}_in_{table}"))
            shutil.copytree(root, lakes[-1])
            os.killpg(process.pid, signal.SIGCONT)
    return lakes


def test_a_job_killed_in_any_write_and_run_again_leaves_equal_tables(spark, tmp_path, sources):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for job in WRITES:
        lakes = kill_in_every_write(job, killed, sources)
        for root in (undisturbed, *lakes):
            CALLED[job](spark, with_values(Config(), {**sources, "lake.root": str(root)}))
        tables = Lake(spark, str(undisturbed)).tables()
        expected = {table.name: sorted_rows(undisturbed / table.name) for table in tables}
        assert all(rows for name, rows in expected.items() if name in WRITES[job])
        for root in lakes:
            found = Lake(spark, str(root))
            assert [table.name for table in found.tables()] == list(expected)
            for table in tables:
                assert sorted_rows(root / table.name) == expected[table.name], (root, table.name)


def sorted_rows(path: Path) -> list[str]:
    """A table's rows without run-specific columns, read by its Delta log, as Spark takes minutes for all tables.

    Its log is whole, since no checkpoint removes a commit within a day.
    """
    files: dict[str, dict[str, str]] = {}
    for commit in sorted((path / "_delta_log").glob("*.json")):
        for action in map(json.loads, commit.read_text().splitlines()):
            if "add" in action:
                assert "deletionVector" not in action["add"]
                files[action["add"]["path"]] = action["add"]["partitionValues"]
            elif "remove" in action:
                del files[action["remove"]["path"]]
    rows = []
    for name, partition in files.items():
        for row in pq.ParquetFile(path / unquote(name)).read().to_pylist():
            rows.append(repr({name: value for name, value in (row | partition).items() if name not in OF_THE_RUN}))
    return sorted(rows)
