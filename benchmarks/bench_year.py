"""The size of a lake after a year of small days, against the formula of docs/operations.md.

    .venv/bin/python benchmarks/bench_year.py --days 365 --rows 300
    .venv/bin/python benchmarks/bench_year.py --days 56 --retention-days 7 --keep-runs 7 --history-days 28 --at 28 42 56

The second command has shorter periods than the defaults, so that the lake reaches its steady size within weeks.

Each day its log is ingested, examples are built (a time split whose val and test days move) and domain_stats counts the
day; each week maintain_lake runs with its defaults. Training is not run: the run of a day is a line in training_runs
with the versions that it would pin, a package of one file, and a promotion. The clock of the process advances by a day
with each day (moved_clock.c, compiled here), and files are dated by it, so that 30 days are 30 of these days.

Prints for each table and day of --at: bytes of its newest version, of all its data files, and the formula's value for
the newest version; files; commits and bytes of its log; packages and kept runs; and the seconds of days and of
maintain_lake.
"""

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from machine import machine
from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config, parse_config, with_values
from mamdr_core.datasets.synthetic import generate_logs
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.examples.versions import versions_of
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.maintenance.job import maintain_lake
from mamdr_core.lake.stats import domain_stats
from mamdr_core.runtime.run_ids import make_run_id
from mamdr_core.training.records import record_run
from schemas import TABLES
from schemas.spark import spark_schema

WEEK = 7
PACKAGE_BYTES = 20_000
_DAY = timedelta(days=1)
_CLOCK = "MOVED_CLOCK"
# A session takes an executor that has sent nothing for two minutes, by the clock that is moved, for lost.
_SUBMIT = (
    "--conf spark.network.timeout=100000000s --conf spark.executor.heartbeatInterval=10s --conf spark.ui.enabled=false "
    "--driver-memory 2g --conf spark.sql.shuffle.partitions=1 --conf spark.databricks.delta.snapshotPartitions=1 "
    "--conf spark.sql.codegen.cache.maxEntries=5000 pyspark-shell"
)


def main() -> None:
    options = _parse()
    if _CLOCK not in os.environ:
        sys.exit(_with_moved_clock())
    os.environ["PYSPARK_SUBMIT_ARGS"] = _SUBMIT
    os.environ["SPARK_SUBMIT_OPTS"] = "-XX:+UseSerialGC -XX:ReservedCodeCacheSize=400m"
    with tempfile.TemporaryDirectory() as folder, spark_session("bench_year") as spark:
        run(spark, configure(folder, options), options)


def _with_moved_clock() -> int:
    """This script again, with the clock that it can move."""
    with tempfile.TemporaryDirectory() as folder:
        library, clock = f"{folder}/moved_clock.so", Path(folder) / "seconds"
        source = Path(__file__).with_name("moved_clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, str(source)], check=True)
        clock.write_bytes(struct.pack("q", 0))
        environ = os.environ | {_CLOCK: str(clock), "LD_PRELOAD": library}
        return subprocess.run([sys.executable, *sys.argv], env=environ, check=False).returncode


def configure(folder: str, options: argparse.Namespace) -> Config:
    synthetic = {
        "rows": options.rows * options.days,
        "days": options.days,
        "domains": options.domains,
        "users": options.rows * 2,
        "items": options.rows,
        # Days before now, so that no event is ahead of the clock.
        "first_day": str(datetime.now(UTC).date() - _DAY),
    }
    return parse_config(
        {
            "lake": {"root": f"{folder}/lake"},
            "input": {"path": f"{folder}/raw", "columns": {"label": "label", "event_time": "event_time"}},
            "features": [{"name": "hour", "kind": "numeric", "expression": "hour(event_time)"}],
            "synthetic": synthetic,
            "examples": {"split": {"kind": "time", "val_days": 1, "test_days": 1}, "shards": {"count": 2}},
            "maintain": {
                "history_days": options.history_days,
                "retention_days": options.retention_days,
                "keep_runs": options.keep_runs,
            },
        }
    )


def run(spark: SparkSession, config: Config, options: argparse.Namespace) -> None:
    generate_logs(spark, config)
    lake, started = Lake(spark, config.lake.root), time.monotonic()
    seconds: dict[str, list[float]] = {"day": [], "maintain_lake": []}
    print(f"{machine()}; {options.rows} rows a day, {options.domains} domains\n", flush=True)
    dated: set[Path] = set()
    before = ""
    for day in range(1, options.days + 1):
        _move_clock(day)
        began = time.monotonic()
        built = _live_day(spark, config, day)
        before = _pretend_run(lake, config, built, before, day)
        seconds["day"].append(time.monotonic() - began)
        _date_files(Path(lake.root), dated)
        if day % WEEK == 0:
            began = time.monotonic()
            figures = maintain_lake(spark, config)
            seconds["maintain_lake"].append(time.monotonic() - began)
            _date_files(Path(lake.root), dated)
            print(
                f"day {day}: a day {seconds['day'][-1]:.1f} s, maintain_lake {seconds['maintain_lake'][-1]:.1f} s, "
                f"{figures['kept_runs']} runs kept, {figures['files_deleted']} files deleted", flush=True
            )  # fmt: skip
        is_late = (time.monotonic() - started) > options.minutes * 60
        if day in options.at or day == options.days or is_late:
            print_result(lake, config, day)
            print(", ".join(f"{what}: first {found[0]:.1f} s, last {found[-1]:.1f} s"
                            for what, found in seconds.items() if found), flush=True)  # fmt: skip
        if is_late:
            print(f"stopped after {options.minutes} minutes, on day {day}")
            return


def _live_day(spark: SparkSession, config: Config, day: int) -> dict[str, Any]:
    assert config.synthetic is not None
    ds = str(config.synthetic.first_day + (day - 1) * _DAY)
    on_day = with_values(config, {"input.path": f"{config.input.path}/day={ds}", "examples.until": ds, "stats.ds": ds})
    ingest_clicks(spark, on_day)
    built = build_examples(spark, on_day)
    domain_stats(spark, on_day)
    return built


def _pretend_run(lake: Lake, config: Config, built: dict[str, Any], before: str, number: int) -> str:
    """Leave what a run that is promoted leaves; returns its id."""
    now = datetime.now(UTC)
    run_id = make_run_id(now, "mixed")
    versions = versions_of(lake, config.features, built["examples_version"])
    row = {"run_id": run_id, "method": "mixed", "model": "mlp", "config": "{}", "input_versions": versions}
    record_run(lake, row | {"status": "running", "started_at": now})
    package = Path(lake.path_of("packages", run_id))
    package.mkdir(parents=True)
    (package / "manifest.json").write_bytes(b" " * PACKAGE_BYTES)
    record_run(lake, row | {"status": "ok", "started_at": now, "package": str(package)})
    table = TABLES["promotions"]
    promoted = (number, run_id, before or None, "promote", None, False, now)
    lake.append(table, lake.spark.createDataFrame([promoted], spark_schema(table)))
    return run_id


def _move_clock(days: int) -> None:
    with Path(os.environ[_CLOCK]).open("r+b") as clock:
        clock.write(struct.pack("q", days * 86_400))


def _date_files(root: Path, dated: set[Path]) -> None:
    """Date new files by the moved clock, which the kernel does not know."""
    now, there = time.time(), set(_files(root))
    for path in there - dated:
        os.utime(path, (now, now))
    dated.clear()
    dated.update(there)


def _files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file())


def print_result(lake: Lake, config: Config, day: int) -> None:
    """Print what each table holds, and the formula's estimate of its data files."""
    kept, history = config.maintain.retention_days, min(config.maintain.history_days or day, day)
    factors = {"clicks": kept, "examples": 3 * kept}
    print(f"\n### Day {day}\n")
    print("| table | KB, newest version | KB, all data files | by the formula | files, newest and all | versions | "
          "KB of its log | KB of checkpoints |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for table in lake.tables():
        data, commits, checkpoints = [], [], []
        for path in _files(Path(lake.path(table))):
            if "_delta_log" not in path.parts:
                data += [path] if path.suffix == ".parquet" else []
            elif path.suffix == ".json":
                commits.append(path)
            elif ".checkpoint" in path.name and path.suffix == ".parquet":
                checkpoints.append(path)
        live, files = lake.log(table).size() / 1e3, len(lake.read(table).inputFiles())
        factor = factors.get(table.name)
        formula = f"{live * (history + min(factor, 3 * day)) / history:.0f}" if factor else ""
        print(f"| {table.name} | {live:.0f} | {_kilobytes(data):.0f} | {formula} | {files}, {len(data)} | "
              f"{lake.version(table)} | {_kilobytes(commits):.0f} | {_kilobytes(checkpoints):.0f} |")  # fmt: skip
    packages = list(_files(Path(lake.root) / "packages"))
    counts = list(_files(Path(lake.root) / "example_counts"))
    every = list(_files(Path(lake.root)))
    print(f"\n{len(packages)} packages, {len(counts)} files of example_counts with {_kilobytes(counts):.0f} KB; "
          f"the lake {len(every)} files, {_kilobytes(every):.0f} KB\n", flush=True)  # fmt: skip


def _kilobytes(paths: list[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / 1e3


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--rows", type=int, default=300, help="a day")
    parser.add_argument("--domains", type=int, default=5)
    parser.add_argument("--history-days", type=int, default=0, help="maintain.history_days")
    parser.add_argument("--retention-days", type=int, default=30, help="maintain.retention_days")
    parser.add_argument("--keep-runs", type=int, default=30, help="maintain.keep_runs")
    parser.add_argument("--at", type=int, nargs="+", default=[30, 60, 90, 180, 365], help="days to print")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
