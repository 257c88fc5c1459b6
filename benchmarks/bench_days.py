"""The cost of a day, and the quality of learning from new days alone.

    .venv/bin/python benchmarks/bench_days.py cost --days 30 --rows 200000
    .venv/bin/python benchmarks/bench_days.py quality --days 10 --rows 20000 --seeds 0 1 2

cost: every day its log is ingested, examples are built (a time split whose val and test days move), domain_stats counts
the day and, on the days that are compared, a run learns the newest day from the parameters of the day before. Prints
seconds, and bytes that tasks read from and wrote to files, as medians of days 4 to 6 and of the last three.

quality: logs with drift. Each day one run learns all days of the window from fresh parameters, and another learns the
newest day alone from the run before it; both predict the next day, which neither has learned. Prints the AUC of both on
that day, and the rows that they descended on.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from machine import machine
from pyspark.sql import SparkSession
from spark_stages import stages_of

from mamdr_core.config.job_config import Config, parse_config, with_values
from mamdr_core.datasets.synthetic import generate_logs
from mamdr_core.lake.champion import resolve_run
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.maintenance.job import maintain_lake
from mamdr_core.lake.stats import domain_stats
from mamdr_core.training.driver import train_mamdr

FIRST, COMPARED = 3, 3
"""The day before those that are compared first, and how many days are a median."""
Cost = dict[str, tuple[float, int, int]]
"""By job: seconds, bytes read, bytes written."""


def main() -> None:
    options = _parse()
    # Spark forgets the bytes of all but the last 1,000 stages otherwise.
    os.environ["PYSPARK_SUBMIT_ARGS"] = "--conf spark.ui.retainedStages=1000000 pyspark-shell"
    with spark_session("bench_days") as spark, tempfile.TemporaryDirectory() as folder:
        if options.what == "cost":
            config = configure(folder, options, 0)
            tell_cost(measure_cost(spark, config, options.days), options)
            tell_size(spark, config)
        else:
            pairs = []
            for seed in options.seeds:
                pairs += measure_quality(spark, configure(f"{folder}/{seed}", options, seed), options.days)
            tell_quality(pairs, options)


def configure(folder: str, options: argparse.Namespace, seed: int) -> Config:
    synthetic = {
        "rows": options.rows * options.days,
        "days": options.days,
        "drift": options.drift,
        "domains": options.domains,
        "users": max(500, options.rows // 10),
        "items": max(200, options.rows // 50),
        "size_spread": 1.2,
        "seed": seed,
    }
    return parse_config(
        {
            "lake": {"root": f"{folder}/lake"},
            "input": {"path": f"{folder}/raw", "columns": {"label": "label", "event_time": "event_time"}},
            "synthetic": synthetic,
            "examples": {"split": {"kind": "time", "val_days": 1, "test_days": 1}},
            "model": {"embedding_dim": 16, "hidden": [64, 32]},
            "train": {"seed": seed, "method": options.method},
        }
    )


def measure_cost(spark: SparkSession, config: Config, days: int) -> list[Cost]:
    generate_logs(spark, config)
    costs, parent = [], ""
    for day in range(days):
        on_day = _on(config, day)
        cost = {
            name: _measure(spark, job, on_day)
            for name, job in (("ingest", ingest_clicks), ("build", build_examples), ("stats", domain_stats))
        }
        begins = day + 1 in (FIRST, days - COMPARED)
        if begins:  # days since the parent's are learned too, so that it must be of the day before
            parent = train_mamdr(spark, with_values(on_day, {"train.epochs": 2}))["run_id"]
        elif FIRST < day + 1 <= FIRST + COMPARED or day + 1 > days - COMPARED:
            newest = with_values(on_day, {"train.days": 1, "train.warm_start": parent})
            cost["train"] = _measure(spark, train_mamdr, newest)
            parent = resolve_run(Lake(spark, config.lake), "")
        costs.append(cost)
        print(f"day {day + 1}: " + ", ".join(f"{name} {cost[name][0]:.1f} s" for name in cost), flush=True)
    return costs


def _on(config: Config, day: int) -> Config:
    assert config.synthetic is not None
    ds = str(config.synthetic.first_day + timedelta(days=day))
    return with_values(config, {"input.path": f"{config.input.path}/day={ds}", "examples.until": ds, "stats.ds": ds})


def _measure(spark: SparkSession, job: Callable[[SparkSession, Config], Any], config: Config) -> tuple[float, int, int]:
    before = _bytes(spark)
    started = time.perf_counter()
    job(spark, config)
    seconds = time.perf_counter() - started
    time.sleep(0.2)  # until the store has the last stage
    read, written = (after - earlier for after, earlier in zip(_bytes(spark), before, strict=True))
    return seconds, read, written


def _bytes(spark: SparkSession) -> tuple[int, int]:
    """Bytes that tasks have read from files, and written to files, so far."""
    found = stages_of(spark)
    return sum(stage.inputBytes() for stage in found), sum(stage.outputBytes() for stage in found)


def tell_cost(costs: list[Cost], options: argparse.Namespace) -> None:
    first, last = costs[FIRST : FIRST + COMPARED], costs[-COMPARED:]
    print(f"\n{machine()}; {options.rows:,} rows a day, {options.domains} domains, two cores, session up.\n")
    print(f"| job | s, day {FIRST + 1} | s, day {options.days} | ratio | MB read | ratio | MB written | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for job in costs[-1]:
        cells = []
        for place, unit in ((0, 1.0), (1, 1e6), (2, 1e6)):
            early, late = (statistics.median(cost[job][place] for cost in part) / unit for part in (first, last))
            cells += [f"{early:.1f}", f"{late:.1f}", f"{late / early:.2f}" if early else ""]
        print(f"| {job} | {' | '.join(cells[:3])} | {cells[3]}, {cells[4]} | {cells[5]} | "
              f"{cells[6]}, {cells[7]} | {cells[8]} |")  # fmt: skip


def tell_size(spark: SparkSession, config: Config) -> None:
    """Bytes of the tables that grow by the day, before and after their files are joined: of live files, and of all."""
    lake = Lake(spark, config.lake)
    before = {name: _size(lake, name) for name in ("clicks", "examples")}
    maintain_lake(spark, config)
    print("\n| table | MB, live | MB, all files | after maintain_lake: live | all files | files before, after |")
    print("|---|---|---|---|---|---|")
    for name, (live, every, files) in before.items():
        after = _size(lake, name)
        print(f"| {name} | {live:.1f} | {every:.1f} | {after[0]:.1f} | {after[1]:.1f} | {files}, {after[2]} |")


def _size(lake: Lake, table: str) -> tuple[float, float, int]:
    """MB of the newest version's files, MB of all files, and how many files the newest version has."""
    live = [Path(unquote(file.removeprefix("file:"))) for file in lake.read(table).inputFiles()]
    every = Path(lake.path(table)).rglob("*.parquet")
    return _megabytes(live), _megabytes(path for path in every if "_delta_log" not in path.parts), len(live)


def _megabytes(paths: Iterable[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / 1e6


def measure_quality(spark: SparkSession, config: Config, days: int) -> list[tuple[int, dict[str, Any], dict[str, Any]]]:
    generate_logs(spark, config)
    pairs, before = [], ""
    for day in range(days):
        on_day = _on(config, day)
        ingest_clicks(spark, on_day)
        build_examples(spark, on_day)
        if day < 2:  # the first day to learn comes before one of val and one of test
            continue
        cold = _train(spark, on_day)
        new = _train(spark, with_values(on_day, {"train.days": 1, "train.warm_start": before})) if before else cold
        if before:
            pairs.append((day + 1, cold, new))
            print(f"seed {config.train.seed}, day {day + 1}: cold {cold['auc']:.4f} with {cold['rows']:,} rows, "
                  f"new days {new['auc']:.4f} with {new['rows']:,}", flush=True)  # fmt: skip
        before = new["run_id"]
    return pairs


def _train(spark: SparkSession, config: Config) -> dict[str, Any]:
    figures = train_mamdr(spark, config)
    curve = Lake(spark, config.lake).read("training_curves")
    rows = curve.where(curve.run_id == figures["run_id"]).agg({"rows": "max"}).collect()[0][0]
    return {"run_id": figures["run_id"], "auc": figures["test_auc"], "rows": rows or 0}


def tell_quality(pairs: list[tuple[int, dict[str, Any], dict[str, Any]]], options: argparse.Namespace) -> None:
    values = {
        "AUC of the next day, cold on all days": [cold["auc"] for _, cold, _ in pairs],
        "new days alone - cold": [new["auc"] - cold["auc"] for _, cold, new in pairs],
        "rows descended on, new days over cold": [new["rows"] / cold["rows"] for _, cold, new in pairs if cold["rows"]],
    }
    print(f"\n{machine()}; {options.rows:,} rows a day, drift {options.drift}, {options.days} days, "
          f"seeds {options.seeds}, {options.method}.\n")  # fmt: skip
    print("| what | mean | standard deviation | least | most | runs |\n|---|---|---|---|---|---|")
    for what, found in values.items():
        print(f"| {what} | {statistics.mean(found):.4f} | {statistics.pstdev(found):.4f} | {min(found):.4f} | "
              f"{max(found):.4f} | {len(found)} |")  # fmt: skip


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "quality"))
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rows", type=int, default=200_000, help="a day")
    parser.add_argument("--domains", type=int, default=200)
    parser.add_argument("--drift", type=float, default=0.1)
    parser.add_argument("--method", default="mixed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


if __name__ == "__main__":
    main()
