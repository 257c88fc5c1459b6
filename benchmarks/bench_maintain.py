"""The cost of maintain_lake for the driver if a table has many files.

    .venv/bin/python benchmarks/bench_maintain.py --files 1000 100000

The table clicks has that many files, spread over a year: entries in its log, and files of one byte, since none is
opened. They are 40 days old and too large to be compacted; one in a hundred additional files is no longer needed.
Prints the seconds of maintain_lake, the peak memory of the driver's Python, its calls to the JVM, and the rows that it
collected. To measure another version of the project, set PYTHONPATH to it.
"""

import argparse
import json
import os
import tempfile
import time
import tracemalloc
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from jvm_calls import counting
from machine import machine

from mamdr_core.config.job_config import parse_config
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.maintenance.job import maintain_lake

_DAY = 86_400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 100_000])
    options = parser.parse_args()
    with spark_session("bench_maintain") as spark:
        print(f"{machine()}\n")
        print("| files | of them removed | s | MB of Python, peak | calls to the JVM | rows collected |")
        print("|---|---|---|---|---|---|", flush=True)
        for files in options.files:
            with tempfile.TemporaryDirectory() as folder:
                _make_table(Lake(spark, f"{folder}/lake"), files)
                config = parse_config({"lake": {"root": f"{folder}/lake"}})
                tracemalloc.start()
                started = time.perf_counter()
                with counting(spark) as counts:
                    figures = maintain_lake(spark, config)
                seconds = time.perf_counter() - started
                peak = tracemalloc.get_traced_memory()[1] / 1e6
                tracemalloc.stop()
                print(f"| {files:,} | {figures['files_deleted']:,} | {seconds:.1f} | {peak:.1f} | "
                      f"{counts['calls']:,} | {counts['rows']:,} |", flush=True)  # fmt: skip


def _make_table(lake: Lake, files: int) -> None:
    """A table clicks whose first commit is Delta's, and whose second names files that were written here."""
    lake.create("clicks")
    root, old = Path(lake.path("clicks")), time.time() - 40 * _DAY
    names = []
    for number in range(files + files // 100):
        ds = date(2026, 1, 1) + timedelta(number % 365)
        names.append(f"ds={ds}/part-{number:05}-{number:032x}.c000.snappy.parquet")
        path = root / names[-1]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b" ")
        os.utime(path, (old, old))
    facts = {"size": 2 << 30, "modificationTime": int(old * 1000), "dataChange": True}
    added = ({"add": {"path": name, "partitionValues": {"ds": name[3:13]}, **facts}} for name in names[:files])
    info = {"commitInfo": {"timestamp": int(time.time() * 1000), "operation": "WRITE", "operationParameters": {}}}
    lines = [json.dumps(action) for action in (info, *added)]
    (root / "_delta_log" / f"{1:020}.json").write_text("\n".join(lines) + "\n")
    spark = lake.spark
    jvm: Any = spark._jvm
    log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, str(root))
    log.update(False, jvm.scala.Option.empty(), jvm.scala.Option.empty())
    log.checkpoint()


if __name__ == "__main__":
    main()
