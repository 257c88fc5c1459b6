"""Reading a rank's rows from shards into memory, against a plain pyarrow scan of the same columns and files.

    .venv/bin/python benchmarks/bench_reading.py --rows 1e7 --folder /scratch --repeats 7

Every read is the first of its own process, as on a rank, since a scan gains from memory that an earlier read left. The
scans and ours run in turn, with the files in the page cache and --threads threads. CPU time is printed as well, since
other jobs on the machine affect it less than wall time. "ours" and "mapped" read through Petastorm, "arrow" without it;
importing Petastorm is timed separately.

A virtual machine with free page reporting returns free huge pages to its host within seconds, and their next use then
takes several times as long as on other machines. Our columns are in huge pages, and the tables of a scan are not. With
--backed, every process uses and frees such pages right before it reads, so that neither waits for the host.
"""

import argparse
import importlib
import json
import mmap
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

WORLDS = (1, 2, 4, 8, 16)
SPLIT = "train"


def main() -> None:
    options = _parse()
    if options.read:
        print(json.dumps(read_once(options)))
        return
    folder = Path(options.folder or tempfile.mkdtemp(prefix="mamdr-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        measure(options, folder)
    finally:
        if not options.folder:
            shutil.rmtree(folder)


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Build the lake where it is not there yet, read it in every way, and print the tables."""
    pinned = folder / f"pinned_{int(options.rows)}.pickle"
    if not pinned.exists():
        build(folder, int(options.rows), pinned)
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.repeats):
        for how in ("dataset", "files", "ours", "mapped", "arrow"):
            runs.setdefault(how, []).append(run_apart(options, how, pinned))
    print("| read by | median s | spread s | processor s | peak anonymous MB | of pyarrow's rate | by processor time |")
    print("|---|---|---|---|---|---|---|")
    figures: dict[str, Any] = {"rows": runs["ours"][0]["rows"], "threads": options.threads, "repeats": options.repeats}
    for how, each in runs.items():
        seconds = [run["seconds"] for run in each]
        ratio, by_processor = (_ratio(runs, how, kind) for kind in ("seconds", "processor"))
        processor = statistics.median(run["processor"] for run in each)
        peak = statistics.median(run["peak_mb"] for run in each)
        median = statistics.median(seconds)
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        shares = f"{ratio:.2f} | {by_processor:.2f}"
        print(f"| {how} | {median:.3f} | {spread} | {processor:.3f} | {peak:.0f} | {shares} |")
        figures[how] = {"seconds": round(median, 4), "peak_mb": round(peak), "of_pyarrow": round(ratio, 3)}
        figures[how] |= {"processor": round(processor, 4), "of_pyarrow_by_processor": round(by_processor, 3)}
    importing = statistics.median(run["importing"] for each in runs.values() for run in each)
    print(f"\nbefore that, each process imports Petastorm: {importing:.2f} s of the processor")
    figures["bytes"] = {str(ranks): bytes_read(pinned, ranks) for ranks in WORLDS}
    print("\n| ranks | bytes read by all / bytes of the files | by the rank that reads most |\n|---|---|---|")
    for ranks, share in figures["bytes"].items():
        print(f"| {ranks} | {share['all']:.3f} | {share['most']:.3f} |")
    print(json.dumps(figures))


def build(folder: Path, rows: int, pinned: Path) -> None:
    """Raw log to examples with the project's own jobs, and the version that will be read."""
    from mamdr_core.config.job_config import parse_config
    from mamdr_core.datasets.synthetic import generate_logs
    from mamdr_core.lake.core.session import make_session
    from mamdr_core.lake.examples.job import build_examples
    from mamdr_core.lake.ingest.job import ingest_clicks
    from mamdr_core.shards.pinned import pin_examples

    raw = str(folder / f"raw_{rows}")
    config = parse_config(
        {
            "lake": {"root": str(folder / f"lake_{rows}")},
            "input": {
                "path": raw,
                "columns": {"label": "label", "event_time": "event_time", "true_probability": "true_probability"},
            },
            "synthetic": {"rows": rows, "domains": max(8, rows // 7_088), "users": rows // 5, "items": rows // 26},
            "features": [
                {"name": "hour", "kind": "numeric", "expression": "hour(event_time)"},
                {"name": "weekday", "kind": "categorical", "expression": "dayofweek(event_time)", "buckets": 7},
            ],
        }
    )
    os.environ["PYSPARK_SUBMIT_ARGS"] = "--master local[2] --driver-memory 8g pyspark-shell"
    spark = make_session("bench_reading")
    spark.sparkContext.setLogLevel("ERROR")
    for job in (generate_logs, ingest_clicks, build_examples):
        job(spark, config)
    started = time.perf_counter()
    version = pin_examples(spark, config.lake, config.features)
    print(f"pin_examples: {time.perf_counter() - started:.1f} s, {len(pickle.dumps(version)) / 1e6:.1f} MB")
    pinned.write_bytes(pickle.dumps((version, config.features)))
    spark.stop()


def run_apart(options: argparse.Namespace, how: str, pinned: Path) -> dict[str, Any]:
    """One read in a process of its own."""
    command = [sys.executable, __file__, "--read", how, "--threads", str(options.threads), "--folder", str(pinned)]
    command += ["--backed"] if options.backed else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def read_once(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak anonymous memory of one read of all domains' rows."""
    import pyarrow as pa
    import pyarrow.dataset
    import pyarrow.parquet as pq
    import torch

    from mamdr_core.shards.loading import Share

    pa.set_cpu_count(options.threads)
    pa.set_io_thread_count(options.threads)
    torch.set_num_threads(options.threads)
    pinned, features = _unpickle(Path(options.folder))
    everything = np.ones(len(pinned.domain_ids), dtype=bool)
    paths = [file.url.removeprefix("file:") for file in pinned.files if file.split == SPLIT]
    share = Share(
        pinned, features, everything, 1e-9 if options.read == "mapped" else 0.0, str(Path(options.folder).parent),
        "arrow" if options.read == "arrow" else "petastorm",
    )  # fmt: skip
    columns = share.column_names
    started = time.process_time()
    importlib.import_module("mamdr_core.shards.petastorm_reader")  # once a process, however many rows it reads
    importing = time.process_time() - started
    if options.backed:
        use_huge_pages(2 * share.needed_bytes())
    peak = _Peak()
    started, worked = time.perf_counter(), time.process_time()
    if options.read == "dataset":
        rows = len(pyarrow.dataset.dataset(paths).to_table(columns=columns))
    elif options.read == "files":
        rows = sum([len(table) for table in [pq.ParquetFile(path).read(columns=columns) for path in paths]])
    else:
        rows = len(share.columns(SPLIT))
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    figures = {"seconds": seconds, "processor": processor, "rows": rows, "peak_mb": peak.stop()}
    return figures | {"importing": importing}


def use_huge_pages(size: int) -> None:
    """Use and free memory in huge pages; size in bytes."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        pages.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, size, mmap.PAGESIZE):
            pages[start] = 1


def _ratio(runs: dict[str, list[dict[str, Any]]], how: str, kind: str) -> float:
    """Median over turns of the faster scan's time over ours, by `kind` of time."""
    turns = zip(runs["dataset"], runs["files"], runs[how], strict=True)
    return statistics.median(min(one[kind], other[kind]) / own[kind] for one, other, own in turns)


class _Peak:
    """Peak of anonymous memory above what there was at the start, in MB, looked at every few milliseconds."""

    def __init__(self) -> None:
        self._before = self._most = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._done.set()
        self._thread.join()
        return (max(self._most, self._now()) - self._before) / 1e3

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, self._now())

    def _now(self) -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def bytes_read(path: Path, ranks: int) -> dict[str, float]:
    """What all ranks read together, and the one that reads most, as shares of the columns' bytes in all files."""
    from mamdr_core.parallel.placement import place_domains
    from mamdr_core.shards.loading import Share

    pinned, features = _unpickle(path)

    def of(own: np.ndarray) -> int:
        share = Share(pinned, features, own)
        share.row_groups(SPLIT)
        return share.figures.read_bytes

    owner = place_domains(pinned.counts[SPLIT], ranks, pinned.positions())
    total, read = of(owner >= 0), [of(owner == rank) for rank in range(ranks)]
    return {"all": round(sum(read) / total, 4), "most": round(max(read) / total, 4)}


def _unpickle(path: Path) -> Any:
    return pickle.loads(path.read_bytes())  # noqa: S301 - written by this benchmark


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=1e6, help="clicks of the synthetic log")
    parser.add_argument("--folder", default="", help="keeps the lake for another call; default: a temporary one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backed", action="store_true", help="use and free huge pages before each read, see above")
    parser.add_argument("--read", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
