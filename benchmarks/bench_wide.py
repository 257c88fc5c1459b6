"""How evenly a build of many shards divides its work, and the driver's memory: a plan as wide as on a cluster.

    .venv/bin/python benchmarks/bench_wide.py --rows 3e6 --domains 5000 --shards 100

Synthetic logs with domains of log-normal sizes are ingested and built into a number of shards of three files. Prints
for every stage with at least as many tasks as files: its tasks, those that read or wrote rows, the rows of the heaviest
one, and their ratio to the mean of all tasks; and the peak memory of the driver's two processes.
"""

import argparse
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

from machine import machine
from pyspark.sql import SparkSession
from spark_stages import stages_of, store_of

from mamdr_core.config.job_config import Config, parse_config
from mamdr_core.datasets.synthetic import generate_logs
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks


def main() -> None:
    options = _parse()
    # Spark keeps fewer tasks of a stage otherwise.
    wide = f"--conf spark.sql.shuffle.partitions={3 * options.shards}"
    kept = "--conf spark.ui.retainedTasks=1000000 --conf spark.ui.retainedStages=100000"
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"{wide} {kept} pyspark-shell"
    with spark_session("bench_wide") as spark, tempfile.TemporaryDirectory(dir=options.folder or None) as folder:
        config = configure(folder, options)
        generate_logs(spark, config)
        ingest_clicks(spark, config)
        before = len(stages_of(spark))
        build_examples(spark, config)
        print(f"{machine()}; {options.rows:,.0f} rows, {options.domains} domains, {options.shards} shards\n")
        print("| stage | tasks | with rows | rows, heaviest task | over the mean of all tasks |\n|---|---|---|---|---|")
        for stage in stages_of(spark)[before:]:
            print_result(spark, stage, 3 * options.shards)
        jvm: Any = spark._jvm
        pid = int(jvm.java.lang.ProcessHandle.current().pid())
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"\ndriver: JVM {_peak(pid):.2f} GB, Python {own:.2f} GB")


def configure(folder: str, options: argparse.Namespace) -> Config:
    return parse_config(
        {
            "lake": {"root": f"{folder}/lake"},
            "input": {"path": f"{folder}/raw", "columns": {"label": "label", "event_time": "event_time"}},
            "synthetic": {
                "rows": int(options.rows),
                "domains": options.domains,
                "users": int(options.rows / 20),
                "items": int(options.rows / 100),
            },
            "examples": {"shards": {"count": options.shards}},
        }
    )


def print_result(spark: SparkSession, stage: Any, files: int) -> None:
    if stage.numTasks() < files:
        return
    tasks = store_of(spark).taskList(stage.stageId(), stage.attemptId(), stage.numTasks())
    rows = []
    for number in range(tasks.size()):
        metrics = tasks.apply(number).taskMetrics().get()
        read = metrics.shuffleReadMetrics().recordsRead()
        rows.append(max(read, metrics.outputMetrics().recordsWritten(), metrics.inputMetrics().recordsRead()))
    mean = sum(rows) / len(rows)
    if mean:
        busy = sum(count > 0 for count in rows)
        print(f"| {stage.stageId()} | {len(rows)} | {busy} | {max(rows):,} | {max(rows) / mean:.2f} |")


def _peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=3e6)
    parser.add_argument("--domains", type=int, default=5000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--folder", default="", help="of the logs and the lake; empty: the system's temporary one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
