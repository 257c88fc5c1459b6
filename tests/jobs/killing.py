"""Jobs that are started to be killed, and what their tables hold in the end."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.lake.core.tables import Lake
from schemas import DeclaredTable

ROOT = Path(__file__).parents[2]
LIMIT = 180
"""Seconds after which a job hangs."""
QUICK = (
    *("--master", "local[2]", "--driver-memory", "1g"),
    *("--conf", "spark.sql.shuffle.partitions=2", "--conf", "spark.databricks.delta.snapshotPartitions=1"),
    *("--conf", "spark.sql.codegen.wholeStage=false", "--conf", "spark.sql.codegen.factoryMode=NO_CODEGEN"),
)
VICTIMS = ("all", "jvm", "driver", "worker")
SETTLE = 20
"""Seconds that a job's processes have to end after it."""
OF_THE_RUN = ("started_at", "finished_at", "clicks_version")
"""Columns that differ between two runs of a job that do the same."""


def make_sources(folder: Path) -> dict[str, object]:
    """A log of two days with faulty and repeated rows, and vectors of its users: config keys to their values."""
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
    pq.write_table(pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)}), folder / "log.parquet")
    vectors = {"id": [f"u{n}" for n in range(23)], "vector": [[float(n), 1.0] for n in range(23)]}
    pq.write_table(pa.table(vectors), folder / "vectors.parquet")
    vector = {"name": "taste", "kind": "vector", "of": "user", "size": 2, "path": str(folder / "vectors.parquet")}
    return {
        "input": {"path": str(folder / "log.parquet"), "columns": {"label": "label", "event_time": "timestamp(ts)"}},
        "features": [{"name": "city", "kind": "categorical"}, vector],
    }


def start(
    job: str, root: Path, keys: Mapping[str, object], words: Sequence[str] = (), log: Path | None = None, **environ: str
) -> "subprocess.Popen[bytes]":
    """Start a job by spark-submit in a session of its own, so that all its processes can be killed together.

    Args:
        job: name of the file in jobs/.
        root: of the lake.
        keys: config keys and values.
        words: more of the command line.
        log: where stdout and stderr go; None: nowhere.
        environ: more of the environment.
    """
    sets = [f"{key}={json.dumps(value)}" for key, value in {**keys, "lake.root": str(root)}.items()]
    script = str(ROOT / "jobs" / f"{job}.py")
    command = [
        str(ROOT / ".venv/bin/spark-submit"),
        *QUICK,
        script,
        *(w for key in sets for w in ("--set", key)),
        *words,
    ]
    with log.open("ab") if log else open(os.devnull, "wb") as out:
        return subprocess.Popen(command, env=os.environ | environ, stdout=out, stderr=out, start_new_session=True)


def content(lake: Lake, table: str | DeclaredTable) -> DataFrame:
    """A table without what differs between runs that do the same."""
    return lake.read(table).drop(*OF_THE_RUN)


def digest(frame: DataFrame, is_set: bool = False) -> tuple[int, int]:
    """Number of rows, and the sum of their hashes, of the columns in alphabetical order; of a set each row once."""
    row = F.to_json(F.struct(*(F.col(f"`{name}`") for name in sorted(frame.columns))), {"ignoreNullFields": "false"})
    rows = frame.select(F.xxhash64(row).cast("decimal(20,0)").alias("hash"))
    found = (rows.distinct() if is_set else rows).agg(F.count("*"), F.sum("hash")).first()
    return (int(found[0]), int(found[1] or 0)) if found else (0, 0)


def strike(process: "subprocess.Popen[bytes]", victim: str, draw: random.Random) -> str:
    """Kill all of a job's processes or one of a kind; returns which (all, where there is none of the kind yet)."""
    by_kind: dict[str, list[psutil.Process]] = {kind: [] for kind in VICTIMS}
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(process.pid)
        for each in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                by_kind[_kind(each)].append(each)
    if victim == "all" or not by_kind[victim]:
        os.killpg(process.pid, signal.SIGKILL)
        return "all"
    with contextlib.suppress(psutil.Error):
        draw.choice(by_kind[victim]).kill()
    return victim


def _kind(process: psutil.Process) -> str:
    words = process.cmdline()
    if process.name() == "java":
        return "jvm"
    if any("/jobs/" in word and word.endswith(".py") for word in words):
        return "driver"
    return "worker" if process.name().startswith("python") else "all"


def ends(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a job ends by itself in time; it is ended if it does not."""
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    return True


def kill_orphans(name: str, value: str) -> int:
    """Number of processes with a variable in their environment that are there some time later; they are killed."""
    deadline = time.monotonic() + SETTLE
    while left := _marked(name, value):
        if time.monotonic() > deadline:
            for process in left:
                print(f"orphan: {process.pid} {' '.join(process.cmdline())[:200]}", flush=True)
                with contextlib.suppress(psutil.Error):
                    process.kill()
            return len(left)
        time.sleep(0.2)
    return 0


def _marked(name: str, value: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(name) == value:
                found.append(process)
    return found
