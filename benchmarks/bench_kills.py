"""Kills jobs at random moments, runs them again, and compares the lake with that of an undisturbed run.

    .venv/bin/python benchmarks/bench_kills.py --kills 100 --seed 0 --folder .kills

A kill consists of a job (ingest_clicks, build_examples, train_mamdr on one and on two ranks, score), a moment (uniform
over the time of the undisturbed job) and a victim (all of its processes, the JVM, the driver's Python, or one of
Spark's workers and ranks), drawn from the seed and the number of the kill. The job starts from the lake of the jobs
before it. After SIGKILL, the remaining processes of the job must end on their own. Unless the job then succeeded (Spark
and the ranks restart what was lost), it is run again, train_mamdr with --resume.

Equal means: every table row by row, except for names and times of runs; after training also the parameters byte by byte
and the figures by domain. An orphan is a process of the killed job that still exists 20 s after the job has ended (it
is then killed); a hang is a job that has not ended after three minutes.

Results are appended to <folder>/results.jsonl, one line per kill, so an interrupted benchmark resumes.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import machine
from pyspark.sql import SparkSession

from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake
from schemas import DeclaredTable
from tests.jobs.killing import LIMIT, VICTIMS, content, digest, ends, kill_orphans, make_sources, start, strike

MARK = "MAMDR_BENCH_KILL"
"""In the environment of all that a job starts, so that orphans are known."""
TRAIN = {
    "model": {"embedding_dim": 4, "hidden": [8]},
    "train.epochs": 40,
    "train.rounds_per_epoch": 4,
    "train.patience": 1000,
    "train.device": "cpu",
    "train.dr": {"k": 2, "epochs": 40, "patience": 1000},
    "train.checkpoint": {"rounds": 2, "minutes": 0},
}
RECORDS = ("loads", "training_runs", "domain_metrics", "training_curves")
"""Tables that record jobs and runs: one that is killed after its end, and run again, is recorded twice."""
FIGURES = ("method", "model", "ranks", "epochs", "rounds", "dr_passes", "domains", "train_rows", "val_auc", "test_auc")


@dataclass(frozen=True)
class Stage:
    """A job on its way from one lake to the next.

    Attributes:
        name: in the results.
        job: in jobs/.
        before: the stage whose lake it starts from; empty: none.
        keys: config keys beside those of all.
        words: when it is run again.
    """

    name: str
    job: str
    before: str
    keys: dict[str, Any]
    words: tuple[str, ...] = ()


STAGES = (
    Stage("ingest_clicks", "ingest_clicks", "", {}),
    Stage("build_examples", "build_examples", "ingest_clicks", {}),
    Stage("train_mamdr", "train_mamdr", "build_examples", TRAIN, ("--resume",)),
    Stage("train_mamdr, 2 ranks", "train_mamdr", "build_examples", {**TRAIN, "train.ranks": 2}, ("--resume",)),
    Stage("score", "score", "train_mamdr", {"score.batch": "b"}),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a kill."""

    number: int
    stage: str
    victim: str
    at_seconds: float
    orphans: int
    hangs: int
    differs: list[str]


class Bench:
    """The undisturbed lakes, and kills compared with them."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.folder = spark, folder
        self.raw = folder / "raw"
        if not self.raw.exists():
            self.raw.mkdir(parents=True)
            make_sources(self.raw)
        self.sources = make_sources(self.raw)

    def lake(self, stage: Stage) -> Path:
        return self.folder / "undisturbed" / stage.name.replace(", ", "-").replace(" ", "-")

    def prepare(self) -> dict[str, float]:
        """Make the undisturbed lake of every stage; returns the seconds that its job took."""
        noted = self.folder / "seconds.json"
        seconds: dict[str, float] = json.loads(noted.read_text()) if noted.exists() else {}
        for stage in STAGES:
            if stage.name in seconds:
                continue
            root = self.lake(stage)
            self._copy(stage, root)
            began = time.monotonic()
            process = self._start(stage, root, (), "undisturbed")
            if process.wait(10 * LIMIT):
                raise SystemExit(f"error: undisturbed {stage.name} failed: {self.folder / 'jobs.log'}")
            seconds[stage.name] = time.monotonic() - began
            noted.write_text(json.dumps(seconds))
            print(f"undisturbed {stage.name}: {seconds[stage.name]:.1f} s", flush=True)
        return seconds

    def kill(self, number: int, seed: int, seconds: dict[str, float]) -> Outcome:
        """One kill, and its outcome."""
        draw = random.Random(f"{seed}/{number}")
        stage, victim = draw.choice(STAGES), draw.choice(VICTIMS)
        moment = draw.uniform(0, seconds[stage.name])
        root = self.folder / "killed"
        self._copy(stage, root)
        mark = f"{os.getpid()}-{number}"
        process = self._start(stage, root, (), mark)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        victim = "none" if process.poll() is not None else strike(process, victim, draw)
        hangs = int(not ends(process))
        orphans = kill_orphans(MARK, mark)
        code = process.returncode
        if code:
            again = self._start(stage, root, stage.words, f"{mark}-again")
            hangs += int(not ends(again))
            orphans += kill_orphans(MARK, f"{mark}-again")
            code = again.returncode
        differs = self.compare(stage, root) if code == 0 else [f"run again it ended with {code}"]
        return Outcome(number, stage.name, victim, round(moment, 2), orphans, hangs, differs)

    def compare(self, stage: Stage, root: Path) -> list[str]:
        """Names of what differs from the undisturbed lake of a stage."""
        self.spark.catalog.clearCache()
        expected, found = Lake(self.spark, str(self.lake(stage))), Lake(self.spark, str(root))
        tables = {table.name: table for table in expected.tables()}
        others = [table.name for table in found.tables()]
        if list(tables) != others:
            return [f"tables {list(tables)} and {others}"]
        differs = [name for name, table in tables.items() if _facts(expected, table) != _facts(found, table)]
        return differs if _packages(expected) == _packages(found) else [*differs, "packages"]

    def _copy(self, stage: Stage, root: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        before = next((other for other in STAGES if other.name == stage.before), None)
        if before:
            shutil.copytree(self.lake(before), root)

    def _start(self, stage: Stage, root: Path, words: tuple[str, ...], mark: str) -> "subprocess.Popen[bytes]":
        keys = {**self.sources, **stage.keys}
        return start(stage.job, root, keys, words, self.folder / "jobs.log", **{MARK: mark})


def _facts(lake: Lake, table: DeclaredTable) -> object:
    """What a table holds, to be compared; of runs that ended well what they found, however often, without names."""
    rows = content(lake, table)
    if table.name not in RECORDS:
        return digest(rows)
    if table.name == "training_runs":
        return {str(row) for row in rows.where("status = 'ok'").select(*FIGURES).collect()}
    named = [name for name in rows.columns if name == "run_id" or "seconds" in name]
    return digest(rows.drop(*named), is_set=True)


def _packages(lake: Lake) -> set[tuple[tuple[str, str], ...]]:
    """Of every package its files of parameters, by name, with their hashes."""
    packages = Path(lake.root, "packages").glob("[!.]*")
    return {
        tuple(
            (file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in sorted(package.glob("*.safetensors"))
        )
        for package in packages
    }


def main() -> None:
    options = _parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = options.folder / "results.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    done = {outcome["number"]: outcome for outcome in map(json.loads, lines)}
    with spark_session("bench_kills") as spark:
        bench = Bench(spark, options.folder.resolve())
        seconds = bench.prepare()
        left = [number for number in range(options.kills) if number not in done]
        began = time.monotonic()
        for count, number in enumerate(left, 1):
            outcome = asdict(bench.kill(number, options.seed, seconds))
            done[number] = outcome
            with results.open("a") as file:
                file.write(json.dumps(outcome) + "\n")
            each = (time.monotonic() - began) / count
            verdict = f"DIFFERS: {outcome['differs']}" if outcome["differs"] else "equal"
            rate = f"{each:.0f} s a kill, {each * (len(left) - count) / 60:.0f} min left"
            what = f"{outcome['stage']}, {outcome['victim']} after {outcome['at_seconds']} s"
            print(f"kill {number} ({len(done)} of {options.kills}): {what}: {verdict}; {rate}", flush=True)
    _report(list(done.values()))


def _report(outcomes: list[dict[str, Any]]) -> None:
    print(f"\n{machine()}.\n\n| job | kills | equal | orphans | hangs | victims |\n|---|---|---|---|---|---|")
    for stage in (*(stage.name for stage in STAGES), ""):
        own = [outcome for outcome in outcomes if stage in ("", outcome["stage"])]
        victims = Counter(outcome["victim"] for outcome in own)
        equal = sum(not outcome["differs"] for outcome in own)
        orphans, hangs = (sum(outcome[name] for outcome in own) for name in ("orphans", "hangs"))
        shown = ", ".join(f"{victim} {count}" for victim, count in sorted(victims.items()))
        print(f"| {stage or 'all'} | {len(own)} | {equal} | {orphans} | {hangs} | {shown} |")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, default=Path(".kills"), help="work and results; goes on with what is there"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
