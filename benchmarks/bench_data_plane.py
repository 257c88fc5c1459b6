"""From raw log to shards (ingest_clicks + build_examples) against one bare Spark job on the same files and session.

The bare job reads the same files, range-sorts by domain and writes Parquet. The logs have the shape of the paper's
production table: one user per 5 rows, one item per 26, and one domain per 7,088 rows, or 69,102 domains in the largest
log.

    .venv/bin/python benchmarks/bench_data_plane.py --rows 1e6 1e7 1e8 --folder /scratch --repeats 3
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config, parse_config
from mamdr_core.datasets.synthetic import generate_logs
from mamdr_core.lake.core.session import make_session
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks

LARGEST = 100_000_000


def main() -> None:
    options = _parse()
    # The JVM reads these at its start, which is the session's.
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"--master local[{options.cores}] --driver-memory 16g pyspark-shell"
    spark = make_session("bench_data_plane")
    spark.sparkContext.setLogLevel("ERROR")
    folder = Path(options.folder or tempfile.mkdtemp(prefix="mamdr-bench-"))
    for rows in options.rows:
        measured = measure(spark, folder, int(rows), options.repeats)
        print(json.dumps(measured), flush=True)
    spark.stop()
    if not options.folder:
        shutil.rmtree(folder)


def measure(spark: SparkSession, folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Median seconds of each job, their ratio, and the files written."""
    config = configuration(folder, rows)
    if not Path(config.input.path).exists():
        generate_logs(spark, config)
    seconds: dict[str, list[float]] = {"bare": [], "ingest": [], "build": []}
    for _ in range(repeats):
        # One after the other, so that all meet the same moods of the machine.
        seconds["bare"].append(_timed(lambda: bare_job(spark, config.input.path, folder / "bare")))
        shutil.rmtree(config.lake.root, ignore_errors=True)
        seconds["ingest"].append(_timed(lambda: ingest_clicks(spark, config)))
        seconds["build"].append(_timed(lambda: build_examples(spark, config)))
    medians = {name: round(statistics.median(each), 1) for name, each in seconds.items()}
    ours = [a + b for a, b in zip(seconds["ingest"], seconds["build"], strict=True)]
    return {
        "rows": rows,
        **medians,
        "ratio": round(statistics.median(a / b for a, b in zip(ours, seconds["bare"], strict=True)), 2),
        "microseconds_a_row": round(1e6 * statistics.median(ours) / rows, 2),
        **{f"{table}_files": _files(config, table) for table in ("clicks", "examples", "users")},
    }


def configuration(folder: Path, rows: int) -> Config:
    return parse_config(
        {
            "lake": {"root": str(folder / f"lake_{rows}")},
            "input": {
                "path": str(folder / f"raw_{rows}"),
                "columns": {"label": "label", "event_time": "event_time", "true_probability": "true_probability"},
            },
            "synthetic": {
                "rows": rows,
                "domains": 69_102 if rows >= LARGEST else max(1, rows // 7_088),
                "users": max(1, rows // 5),
                "items": max(1, rows // 26),
                "days": 3,
                "ctr": 0.047,
            },
        }
    )


def bare_job(spark: SparkSession, source: str, target: Path) -> None:
    """What any job must do at least: read, range-sort by domain, write."""
    spark.read.parquet(source).sort("domain").write.mode("overwrite").parquet(str(target))


def _timed(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def _files(config: Config, table: str) -> int:
    return len(list((Path(config.lake.root) / table).rglob("*.parquet")))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--folder", help="keep logs and lakes here; default: a temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
