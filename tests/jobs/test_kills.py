"""A job that is killed in the middle of a write, and run again, leaves the tables of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.testing import assertDataFrameEqual

from mamdr_core.lake.tables import Lake

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIMIT = 120
QUICK = (
    "--master local[2] --driver-memory 1g --driver-java-options -XX:TieredStopAtLevel=1 "
    "--conf spark.sql.shuffle.partitions=2 --conf spark.databricks.delta.snapshotPartitions=1 pyspark-shell"
)
WRITES = {
    "ingest_clicks": ("clicks_rejected", "clicks", "loads"),
    "build_examples": ("users", "vocabulary_city", "user_features", "examples"),
}
"""Tables that a job writes, in its order; of the vocabularies, which one function writes, the first and the last."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, object]:
    """A log of two days with faulty and repeated rows, and vectors of its users: config keys to their values."""
    folder = tmp_path_factory.mktemp("raw")
    rows = [
        (
            f"u{n * 7 % 23}",
            f"i{n % 11}",
            f"d{n % 3}",
            n % 3 % 2,
            f"2026-01-0{1 + n % 2} 10:{n % 60:02d}:00",
            f"c{n % 4}",
        )
        for n in range(300)
    ]
    rows += [*rows[:5], (None, "i", "d", 1, "2026-01-01 11:00:00", "c"), ("u", "i", "d", 7, "2026-01-02 11:00:00", "c")]
    names = ("user", "item", "domain", "label", "ts", "city")
    write(folder / "log.parquet", {name: [row[at] for row in rows] for at, name in enumerate(names)})
    users = [f"u{n}" for n in range(23)]
    write(folder / "vectors.parquet", {"id": users, "vector": [[float(n), 1.0] for n in range(23)]})
    vector = {"name": "taste", "kind": "vector", "of": "user", "size": 2, "path": str(folder / "vectors.parquet")}
    return {
        "input": {"path": str(folder / "log.parquet"), "columns": {"label": "label", "event_time": "timestamp(ts)"}},
        "features": [{"name": "city", "kind": "categorical"}, vector],
    }


def write(path: Path, columns: dict[str, list[object]]) -> None:
    pq.write_table(pa.table(columns), path)


def start(job: str, root: Path, sources: dict[str, object]) -> subprocess.Popen[bytes]:
    keys = [f"{key}={json.dumps(value)}" for key, value in {**sources, "lake.root": str(root)}.items()]
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *(word for key in keys for word in ("--set", key))]
    environment = os.environ | {"PYSPARK_SUBMIT_ARGS": QUICK}
    # A session of its own, so that the JVM and its workers die with it.
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def run(job: str, root: Path, sources: dict[str, object]) -> None:
    assert start(job, root, sources).wait(LIMIT) == 0


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
    for job, tables in WRITES.items():
        run(job, undisturbed, sources)
        for table in tables:
            files, before = data_files(killed, table), commits(killed, table)
            process = start(job, killed, sources)
            # Its first data file is there, and the commit that names it is not.
            kill_when(process, lambda table=table, files=files: bool(data_files(killed, table) - files))
            assert len(commits(killed, table) - before) <= (0 if before else 1)  # the empty table's
        run(job, killed, sources)
    expected, found = Lake(spark, str(undisturbed)), Lake(spark, str(killed))
    assert [table.name for table in found.tables()] == [table.name for table in expected.tables()]
    of_the_run = ("started_at", "finished_at", "clicks_version")
    for table in expected.tables():
        assertDataFrameEqual(found.read(table).drop(*of_the_run), expected.read(table).drop(*of_the_run))
