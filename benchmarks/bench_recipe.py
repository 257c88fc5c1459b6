"""The quality suite: learning methods on every kind of log that can be tested, over seeds, in one table.

    .venv/bin/python benchmarks/bench_recipe.py --folder /scratch/recipe --sets ciao conflict_1 --write

Each set has a lake in --folder, which is built if it is missing. Runs are trials of comparisons (compare_methods), so
that a second start runs only what has not finished. Choices are made on the default seeds of generator and split;
--final measures on others, each run on its own.

Columns, by set and method: test AUC, mean over domains, with its standard deviation over runs; its difference from
joint training on the same log; the mean over the third of domains with fewest training rows; the mean weighted by test
rows; calibration, the sum of predictions over clicks; rows descended on until early stopping; seconds of a run, which
shares the machine with concurrent runs. A domain with one class in the test split has no AUC and counts only in
calibration.
"""

import argparse
import json
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from machine import machine
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from recipe_sets import (
    BASELINE,
    METHODS,
    NAMED,
    OPTIONS,
    SETS,
    STRUCTURES,
    Method,
    config_of,
    waves_of,
    world_of,
)

from mamdr_core.config.job_config import Config, with_values
from mamdr_core.experiments.compare import compare_methods
from mamdr_core.experiments.figures import smallest_third, spread
from mamdr_core.experiments.measured import read_measured
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.pinned import pin_examples

REPORT = Path(__file__).with_name("recipe.md")
HEAD = "| method | test AUC | against joint | smallest third | weighted | calibration | rows descended on | s | runs |"


@dataclass(frozen=True)
class Measured:
    """Figures of one run; the module's docstring explains them."""

    data_set: str
    method: str
    seed: int
    world: int
    run_id: str
    code_version: str | None
    test_auc: float
    smallest_third: float
    weighted: float
    calibration: float
    rows: int
    seconds: float
    oracle: float


def main() -> int:
    options = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    # By set and world, the seeds of the runs on that lake.
    lakes: dict[tuple[str, int], list[int]] = defaultdict(list)
    for name in options.sets:
        for seed in options.seeds:
            lakes[name, world_of(seed, options.final)].append(seed)
    measured: list[Measured] = []
    failed: list[str] = []
    started = time.perf_counter()
    with spark_session("bench_recipe") as spark:
        for number, ((name, world), seeds) in enumerate(lakes.items(), start=1):
            config = config_of(name, world, options.scale, options.folder)
            try:
                measured += run_lake(spark, config, name, world, seeds, options.methods, options.ranks)
            except MamdrError as error:
                failed.append(f"{name}, world {world}: {error}")
            seconds = time.perf_counter() - started
            left = int(seconds / number * (len(lakes) - number))
            print(
                f"lake {number}/{len(lakes)}: {name}, world {world}, after {int(seconds) // 60} min | "
                f"about {left // 60} min left", file=sys.stderr, flush=True,
            )  # fmt: skip
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps([asdict(each) for each in measured], indent=1) + "\n")
    text = report(measured, options)
    print(text)
    if options.write:
        REPORT.write_text(text + "\n")
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def run_lake(
    spark: SparkSession,
    config: Config,
    name: str,
    world: int,
    seeds: Sequence[int],
    labels: Sequence[str],
    ranks: int = 1,
) -> list[Measured]:
    """Run what is missing of some methods and seeds on one lake, and read the figures of all."""
    found = []
    config = with_values(config, {"train.ranks": ranks})
    for number, wave in enumerate(waves_of(labels)):
        comparison = f"recipe-{number}" + (f"-{ranks}-ranks" if ranks > 1 else "")
        compare_methods(spark, with_values(config, comparison_of(comparison, wave, name, seeds)))
        found += read_runs(spark, config, comparison, {pair_of(each): label for label, each in wave.items()})
    return [Measured(data_set=name, world=world, **each) for each in found]


def comparison_of(comparison: str, wave: Mapping[str, Method], name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The keys of `compare` for methods whose pairs of model and method differ; limits of the set come last."""
    pairs = [pair_of(method) for method in wave.values()]
    overrides = {pair_of(method): {**method.values, **SETS[name].limits} for method in wave.values()}
    return {
        "compare.name": comparison,
        "compare.pairs": pairs,
        "compare.overrides": overrides,
        "compare.baseline": pairs[0],
        "compare.seeds": list(seeds),
        "compare.largest": 0,
    }


def pair_of(method: Method) -> str:
    return f"{method.model}/{method.name}"


def read_runs(spark: SparkSession, config: Config, comparison: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Figures of each finished run of a comparison; `labels` by model/method."""
    lake = Lake(spark, config.lake)
    rows = lake.read("comparisons").where(F.col("comparison") == comparison).collect()
    label_of = {run: labels[f"{row['model']}/{row['method']}"] for row in rows for run in row["runs"]}
    pinned = pin_examples(spark, config.lake, config.features)
    measured = read_measured(lake, sorted(label_of), len(pinned.domain_ids))
    of_runs = F.col("run_id").isin(list(label_of))
    clicked = lake.read("domain_metrics").where(of_runs & (F.col("split") == "test")).groupBy("run_id")
    sums = clicked.agg((F.sum(F.col("mean_prediction") * F.col("rows")) / F.sum("clicks")).alias("calibration"))
    calibration = {row["run_id"]: row["calibration"] for row in sums.collect()}
    curves = lake.read("training_curves").where(of_runs).groupBy("run_id").agg(F.max("rows").alias("rows"))
    descended = {row["run_id"]: row["rows"] for row in curves.collect()}
    configs = lake.read("training_runs").where(of_runs).select("run_id", "config").collect()
    seeds = {row["run_id"]: yaml.safe_load(row["config"])["train"]["seed"] for row in configs}
    found = []
    for run_id, run in measured.runs.items():
        known = np.flatnonzero(~np.isnan(run.auc_n))
        small = smallest_third(pinned.counts["train"][known])
        found.append(
            {
                "method": label_of[run_id],
                "seed": seeds[run_id],
                "run_id": run_id,
                "code_version": run.code_version,
                "test_auc": run.test_auc,
                "smallest_third": float(run.auc_n[known][small].mean()),
                "weighted": run.weighted_test_auc,
                "calibration": calibration[run_id] or float("nan"),
                "rows": descended.get(run_id, 0),
                "seconds": run.seconds,
                "oracle": float(measured.oracle_n[known].mean()),
            }
        )
    return found


def report(measured: Sequence[Measured], options: argparse.Namespace) -> str:
    """The table in Markdown, a section a set."""
    command = " ".join(["bench_recipe.py", *(word for word in sys.argv[1:] if word != "--write")])
    kind = "other seeds of generator and split than choices were made on" if options.final else "one log and split"
    versions = ", ".join(sorted({str(each.code_version) for each in measured}))
    lines = [
        "# Methods compared",
        "",
        f"`benchmarks/{command}`: seeds {', '.join(map(str, options.seeds))}, {kind}, scale {options.scale:g}; code "
        f"{versions}; {machine()}. The head of the script explains the columns; ± is a standard deviation over runs.",
    ]
    for name in dict.fromkeys(each.data_set for each in measured):
        runs = [each for each in measured if each.data_set == name]
        oracle = float(np.mean([each.oracle for each in runs]))
        lines += ["", f"## {name}" + ("" if np.isnan(oracle) else f" (oracle {oracle:.4f})"), "", HEAD]
        lines.append("|---" * (HEAD.count("|") - 1) + "|")
        base = {each.seed: each for each in runs if each.method == BASELINE}
        best = max(dict.fromkeys(each.method for each in runs), key=lambda label: _mean(runs, label))
        for label in dict.fromkeys(each.method for each in runs):
            lines.append(_line(label, [each for each in runs if each.method == label], base, label == best))
    return "\n".join(lines)


def _mean(runs: Sequence[Measured], label: str) -> float:
    return float(np.mean([each.test_auc for each in runs if each.method == label]))


def _line(label: str, runs: Sequence[Measured], base: Mapping[int, Measured], best: bool) -> str:
    auc = _with_spread([each.test_auc for each in runs])
    gains = [each.test_auc - base[each.seed].test_auc for each in runs if each.seed in base]
    against = "" if label == BASELINE or not gains else _with_spread(gains, "+")
    small, weighted, calibration, rows, seconds = (
        float(np.mean([getattr(each, name) for each in runs]))
        for name in ("smallest_third", "weighted", "calibration", "rows", "seconds")
    )
    figures = f"{small:.4f} | {weighted:.4f} | {calibration:.3f} | {rows:,.0f} | {seconds:.0f}"
    return f"| {label} | {f'**{auc}**' if best else auc} | {against} | {figures} | {len(runs)} |"


def _with_spread(values: Sequence[float], sign: str = "") -> str:
    over = spread(np.array(values))
    return f"{np.mean(values):{sign}.4f}" + ("" if over is None else f" ± {over:.4f}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="of lakes and logs, kept between calls")
    add("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help=f"default: all of {', '.join(SETS)}")
    add("--methods", nargs="+", choices=NAMED, default=list(METHODS), metavar="METHOD",
        help=f"default: all of {', '.join(METHODS)}; structures: {', '.join(STRUCTURES)}; one of joint, dn, mamdr and "
        f"mixed with a training option is METHOD+OPTION: {', '.join(OPTIONS)}")  # fmt: skip
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run each; default: 0 1 2")
    add("--ranks", type=int, default=1, help="of every run; default: 1")
    add("--final", action="store_true", help="every seed has its own log and split, on which no choice was made")
    add(
        "--scale", type=float, default=1.0, help="share of rows, domains, users and items of synthetic logs; default: 1"
    )
    add("--write", action="store_true", help=f"also write the table to benchmarks/{REPORT.name}")
    add("--json", type=Path, help="file of the figures by run; default: recipe.json in --folder")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.json = options.json or options.folder / "recipe.json"
    return options


if __name__ == "__main__":
    sys.exit(main())
