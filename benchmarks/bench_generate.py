"""generate_logs against a plain Spark job that writes the same rows, and against the disk.

    .venv/bin/python benchmarks/bench_generate.py --rows 1e7 --folder /scratch --repeats 3

The logs have the shape of conf/production.yaml at a smaller size: users, items and domains shrink with the rows. The
plain job reads the generated Parquet files and writes them again with the same writer, so it has Spark's cost without
drawing rows. The rate of the disk is that of one process that writes as many bytes in sequence and waits until they are
on the disk. All three run in turn.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config, load_config
from mamdr_core.datasets.synthetic import generate_logs, write_logs
from mamdr_core.lake.core.session import make_session

ROOT = Path(__file__).parents[1]
WARM_UP_ROWS = 200_000
BLOCK = 8 << 20


def main() -> None:
    options = _parse()
    # The JVM reads these at its start, which is the session's.
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"--master local[{options.cores}] --driver-memory 8g pyspark-shell"
    spark = make_session("bench_generate")
    spark.sparkContext.setLogLevel("ERROR")
    folder = Path(tempfile.mkdtemp(prefix="mamdr-bench-", dir=options.folder))
    try:
        measure(spark, folder, WARM_UP_ROWS, 1)  # the JVM compiles what it runs
        report(*measure(spark, folder, int(options.rows), options.repeats))
    finally:
        spark.stop()
        shutil.rmtree(folder)


def measure(spark: SparkSession, folder: Path, rows: int, repeats: int) -> tuple[int, int, dict[str, list[float]]]:
    """Rows, bytes of their files, and seconds of each way to write them."""
    config = configuration(str(folder / "raw"), rows)
    seconds: dict[str, list[float]] = {"generate_logs": [], "plain Spark job": [], "disk": []}
    size = 0
    for _ in range(repeats):
        seconds["generate_logs"].append(_timed(lambda: generate_logs(spark, config)))
        size = sum(path.stat().st_size for path in Path(config.input.path).rglob("*.parquet"))
        seconds["plain Spark job"].append(_timed(lambda: copy(spark, config.input.path, folder / "copy")))
        seconds["disk"].append(_timed(partial(write_bytes, folder / "bytes", size)))
        shutil.rmtree(folder / "copy")
        (folder / "bytes").unlink()
    return rows, size, seconds


def configuration(path: str, rows: int) -> Config:
    """conf/production.yaml at `rows` rows, in its proportions."""
    whole = load_config(str(ROOT / "conf" / "production.yaml"), [])
    assert whole.synthetic
    part = rows / whole.synthetic.rows
    shrunk = {
        name: max(1, round(getattr(whole.synthetic, name) * part)) for name in ("rows", "domains", "users", "items")
    }
    return replace(
        whole,
        input=replace(whole.input, path=path),
        synthetic=replace(whole.synthetic, **shrunk),
    )


def copy(spark: SparkSession, source: str, target: Path) -> None:
    """What any Spark job does at least that writes these files."""
    write_logs(spark, spark.read.parquet(source), str(target))


def write_bytes(path: Path, size: int) -> None:
    """Write in sequence, and wait for the disk."""
    block = os.urandom(BLOCK)
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, BLOCK):
            file.write(block[: size - start])
        os.fsync(file.fileno())


def report(rows: int, size: int, seconds: dict[str, list[float]]) -> None:
    print("| what | median s | spread s | rows/s | MB/s |\n|---|---|---|---|---|")
    figures = {}
    for name, each in seconds.items():
        median = statistics.median(each)
        spread = f"{min(each):.1f} to {max(each):.1f}"
        print(f"| {name} | {median:.1f} | {spread} | {rows / median:,.0f} | {size / median / 1e6:.0f} |")
        figures[name] = round(median, 2)
    pairs = zip(seconds["plain Spark job"], seconds["generate_logs"], strict=True)
    ratio = statistics.median(plain / ours for plain, ours in pairs)
    print(json.dumps({"rows": rows, "bytes": size, "seconds": figures, "of_plain_job": round(ratio, 2)}))


def _timed(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
