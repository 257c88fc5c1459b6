"""The cost of checkpoints, and the time until a run resumes after a rank was killed.

    .venv/bin/python benchmarks/bench_checkpoints.py cost --domains 1000 --rows 4e5 --repeats 3
    .venv/bin/python benchmarks/bench_checkpoints.py restart --repeats 5

cost: MAMDR with the paper's network (256-128-64 on vectors, dense theta_i), without early stopping, in turn without
checkpoints and with one every `--rounds` rounds and passes. The cost of a checkpoint is the difference of the times
divided by the number of checkpoints; its share of a run is the cost over the default interval of five minutes.

restart: two Horovod ranks, one of which is killed after a checkpoint; the time from the kill to the first checkpoint of
the next attempt, including back-off and the start of ranks.
"""

import argparse
import contextlib
import logging
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
from machine import machine
from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config, parse_config
from mamdr_core.config.training import CheckpointSettings
from mamdr_core.lake.core.session import spark_session
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.files.manifest import MANIFEST
from mamdr_core.training.preparing import prepare_examples

VECTORS = 64
PHASES = ("inner", "validate", "exchange", "checkpoint")
"""Of the run, between reading and measuring."""


class CheckpointCounter(logging.Handler):
    """Counts the checkpoints that a run logs."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.written += record.getMessage().startswith("wrote checkpoint")


def main() -> None:
    options = _parse()
    counter = CheckpointCounter()
    logging.getLogger("mamdr_core").addHandler(counter)
    logging.getLogger("mamdr_core").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder, spark_session("bench_checkpoints") as spark:
        config = configure(folder, options)
        prepare_examples(spark, config)
        print(f"{machine()}; {options.domains:,} domains, {int(options.rows):,} rows.\n", flush=True)
        measure = cost if options.what == "cost" else restart
        measure(spark, config, options, counter)


def configure(folder: str, options: argparse.Namespace) -> Config:
    vectors = [
        {"name": f"{of}_vector", "kind": "vector", "of": of, "size": VECTORS, "path": f"{folder}/raw_vectors/{of}s"}
        for of in ("user", "item")
    ]
    synthetic = {"rows": int(options.rows), "domains": options.domains, "users": 5000, "items": 2000}
    return parse_config(
        {
            "lake": {"root": f"{folder}/lake"},
            "input": {"path": f"{folder}/raw", "columns": {"label": "label", "event_time": "event_time"}},
            "synthetic": synthetic | {"vectors": VECTORS},
            "features": vectors,
            "model": {"hidden": [256, 128, 64], "train_ids": False},
            "train": {
                "epochs": 1,
                "patience": 1000,
                "dr": {"epochs": 3, "patience": 1000},
                "ranks": 2 if options.what == "restart" else 1,
            },
        }
    )


def with_checkpoints(config: Config, rounds: int) -> Config:
    """The same run with a checkpoint every so many rounds; 0: with none."""
    checkpoint = CheckpointSettings(minutes=0, rounds=rounds)
    return replace(config, train=replace(config.train, checkpoint=checkpoint))


def cost(spark: SparkSession, config: Config, options: argparse.Namespace, counter: CheckpointCounter) -> None:
    kinds = {"without": with_checkpoints(config, 0), "with": with_checkpoints(config, options.rounds)}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    blocked, written = 0.0, 0
    for _ in range(options.repeats):
        for kind, each in kinds.items():
            counter.written = 0
            figures = train_mamdr(spark, each)
            phases = figures["seconds"]
            seconds[kind].append(sum(phases.get(name, 0) for name in PHASES))
            if kind == "with":
                blocked = phases["checkpoint"]
                written = counter.written
    medians = {kind: statistics.median(each) for kind, each in seconds.items()}
    each = (medians["with"] - medians["without"]) / max(1, written)
    size = figures["specific_bytes"] / 1e9
    print("| theta_i, GB | s without | s with | checkpoints | s blocked in all | s for each | share at one in 5 min |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {size:.2f} | {_spread(seconds['without'])} | {_spread(seconds['with'])} | {written} | {blocked:.2f} "
        f"| {each:.2f} | {each / 300:.2%} |"
    )


def restart(spark: SparkSession, config: Config, options: argparse.Namespace, counter: CheckpointCounter) -> None:
    config = with_checkpoints(config, 1)
    known: set[Path] = set()
    waited = []
    print("| killed after checkpoint | s until training has written the next one |")
    print("|---|---|")
    for _ in range(options.repeats):
        restarts: list[tuple[int, float]] = []
        killer = threading.Thread(target=_kill_a_rank, args=(Path(config.lake.root) / "checkpoints", known, restarts))
        killer.start()
        figures = train_mamdr(spark, config)
        killer.join()
        (number, seconds), attempts = restarts[0], figures["attempts"]
        if attempts != 2:
            raise SystemExit(f"error: the run took {attempts} attempts, and two were expected")
        waited.append(seconds)
        print(f"| {number} | {seconds:.1f} |", flush=True)
    print(f"\nMedian of {options.repeats}: {statistics.median(waited):.1f} s, at most {max(waited):.1f} s (aim: 30 s).")


def _kill_a_rank(checkpoints: Path, known: set[Path], restarts: list[tuple[int, float]]) -> None:
    """Kill rank 1 of a new run with three checkpoints; add the newest, and the seconds to the next, to `restarts`."""
    while not (complete := _complete(checkpoints, known)) or max(complete) < 3:
        time.sleep(0.01)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOROVOD_RANK") == "1":
                process.kill()
    killed, newest = time.monotonic(), max(_complete(checkpoints, known))
    while not (complete := _complete(checkpoints, known)) or max(complete) <= newest:
        time.sleep(0.01)
    restarts.append((newest, time.monotonic() - killed))
    known.update(checkpoints.iterdir())


def _complete(checkpoints: Path, known: set[Path]) -> list[int]:
    """Numbers of a new run's complete checkpoints."""
    manifests = list(checkpoints.glob(f"*/*/{MANIFEST}"))
    return [int(manifest.parent.name) for manifest in manifests if manifest.parents[1] not in known]


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "restart"))
    parser.add_argument("--domains", type=int, default=1000)
    parser.add_argument("--rows", type=float, default=4e5)
    parser.add_argument("--rounds", type=int, default=16, help="rounds between two checkpoints (cost)")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
