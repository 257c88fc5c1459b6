"""A job that is killed in the middle of a write, and run again, leaves the tables of an undisturbed run."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.testing import assertDataFrameEqual

from mamdr_core.config import Config, with_values
from mamdr_core.lake.examples import build_examples
from mamdr_core.lake.ingest import ingest_clicks
from mamdr_core.lake.tables import Lake
from tests.jobs.killing import LIMIT, content, make_sources, start

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


def kill_when(process: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(LIMIT) == -signal.SIGKILL


def data_files(root: Path, table: str) -> set[Path]:
    return {path for path in (root / table).rglob("*.parquet") if "_delta_log" not in path.parts}


def commits(root: Path, table: str) -> set[Path]:
    return set((root / table / "_delta_log").glob("*.json"))


def test_killed_in_every_write_and_run_again_the_tables_are_those_of_an_undisturbed_run(spark, tmp_path, sources):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    configs = [with_values(Config(), {**sources, "lake.root": str(root)}) for root in (undisturbed, killed)]
    for job, tables in WRITES.items():
        for table in tables:
            files, before = data_files(killed, table), commits(killed, table)
            process = start(job, killed, sources)
            # Its first data file is there, and the commit that names it is not.
            kill_when(process, lambda table=table, files=files: bool(data_files(killed, table) - files))
            assert len(commits(killed, table) - before) <= (0 if before else 1)  # the empty table's
        for config in configs:
            CALLED[job](spark, config)
    expected, found = Lake(spark, str(undisturbed)), Lake(spark, str(killed))
    assert [table.name for table in found.tables()] == [table.name for table in expected.tables()]
    for table in expected.tables():
        assertDataFrameEqual(content(found, table), content(expected, table))
