"""Training options and histories on the real data sets: many short runs in one process, without Spark's records.

    .venv/bin/python benchmarks/bench_options.py --folder /scratch/recipe --sets ciao --methods joint joint+clip

Uses the sets, methods and settings of bench_recipe.py, and its lakes, which are built if they are missing. Every run is
the product's `train_rank` on one rank and one thread. Finished runs are kept in --json: a second start runs only what
is missing, and the table contains all runs of the file. A run of METHOD+platt is also the run of METHOD, as calibration
comes after training: its figures without calibration are METHOD's.

Columns: test AUC, mean over domains; its difference from the set's METHOD without option, paired by seed, and, for a
set with weights or a history, from the set without; mean over the third of domains with fewest training rows; PCOC and
calibration error of all test rows; rows descended on; seconds of CPU time. ± is a standard deviation over seeds.
"""

import argparse
import json
import pickle
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from recipe_sets import NAMED, NAMED_SETS, config_of, world_of

from mamdr_core.config.job_config import Config, with_values
from mamdr_core.engine.metrics import DomainMetrics
from mamdr_core.experiments.figures import smallest_third, spread
from mamdr_core.lake.core.session import spark_session
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.preparing import prepare_examples
from mamdr_core.training.worker import RankTask, train_rank

HEAD = "| set | method | test AUC | difference | smallest third | PCOC | calibration error | rows | s | runs |"

Runs = dict[str, dict[str, float]]
"""Figures by `set method seed`."""


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    runs: Runs = json.loads(options.json.read_text()) if options.json.exists() else {}
    started = time.perf_counter()
    configs = {
        (seed, name): config_of(name, world_of(seed, options.final), 1.0, options.folder)
        for seed in options.seeds
        for name in options.sets
    }
    prepare(list(configs.values()))
    for (seed, name), config in configs.items():
        for label in options.methods:
            if f"{name} {label} {seed}" in runs:
                continue
            if time.perf_counter() - started > options.minutes * 60:
                break
            runs |= run(config, examples_of(config), name, label, seed)
            options.json.write_text(json.dumps(runs, indent=1) + "\n")
            print(name, label, seed, runs[f"{name} {label} {seed}"], file=sys.stderr, flush=True)
    print(report(runs))


def prepare(configs: Sequence[Config]) -> None:
    """Build the lakes that are missing, in one Spark session, and keep their examples as they are pinned."""
    if all(kept_of(config).exists() for config in configs):
        return
    with spark_session("bench_options") as spark:
        for config in configs:
            if not kept_of(config).exists():  # sets can share a lake
                _, pinned, _ = prepare_examples(spark, config)
                kept_of(config).write_bytes(pickle.dumps(pinned))


def kept_of(config: Config) -> Path:
    """The file of a set's pinned examples."""
    return Path(config.lake.root).parent / "pinned.pickle"


def examples_of(config: Config) -> PinnedExamples:
    """A set's examples, after `prepare`."""
    found: PinnedExamples = pickle.loads(kept_of(config).read_bytes())  # noqa: S301 - written by prepare
    return found


def run(config: Config, pinned: PinnedExamples, name: str, label: str, seed: int) -> Runs:
    """Train and measure; of a calibrated run also the figures of the method without calibration."""
    method = NAMED[label]
    values = {"train.method": method.name, "model.name": method.model, "train.seed": seed}
    config = with_values(config, {**values, **method.values, **NAMED_SETS[name].limits})
    owner = np.zeros(len(pinned.domain_ids), dtype=np.int64)
    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="mamdr-options-") as folder:
        result = train_rank(RankTask(config, pinned, owner, folder), SingleProcess())
    cost = {"rows": float(result.rows_descended), "seconds": time.process_time() - began}
    found = {f"{name} {label} {seed}": {**figures_of(result.metrics["test"], pinned), **cost}}
    if result.uncalibrated:
        found[f"{name} {label.partition('+')[0]} {seed}"] = {**figures_of(result.uncalibrated, pinned), **cost}
    return found


def figures_of(measured: DomainMetrics, pinned: PinnedExamples) -> dict[str, float]:
    """What the table shows of a split."""
    auc_n = measured.auc.numpy()
    known = np.flatnonzero(~np.isnan(auc_n))
    small = smallest_third(pinned.counts["train"][known])
    overall = measured.overall()
    return {
        "test_auc": measured.mean_auc(),
        "smallest_third": float(auc_n[known][small].mean()),
        "pcoc": overall["pcoc"],
        "calibration_error": overall["calibration_error"],
    }


def report(runs: Runs) -> str:
    """The table in Markdown."""
    by_row: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for key, figures in sorted(runs.items()):
        name, label, seed = key.split()
        by_row.setdefault((name, label), {})[int(seed)] = figures
    lines = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    for (name, label), own in by_row.items():
        plain = (name, label.partition("+")[0]) if "+" in label else (NAMED_SETS[name].plain, label)
        base = {} if plain == (name, label) else by_row.get(plain, {})
        gains = [own[seed]["test_auc"] - base[seed]["test_auc"] for seed in own if seed in base]
        auc, error = (
            _with_spread([each[figure] for each in own.values()]) for figure in ("test_auc", "calibration_error")
        )
        small, pcoc, rows, seconds = (
            float(np.mean([each[figure] for each in own.values()]))
            for figure in ("smallest_third", "pcoc", "rows", "seconds")
        )
        figures = f"{small:.4f} | {pcoc:.3f} | {error} | {rows:,.0f} | {seconds:.0f} | {len(own)} |"
        lines.append(f"| {name} | {label} | {auc} | {_with_spread(gains, '+') if gains else ''} | {figures}")
    return "\n".join(lines)


def _with_spread(values: Sequence[float], sign: str = "") -> str:
    over = spread(np.array(values))
    return f"{np.mean(values):{sign}.4f}" + ("" if over is None else f" ± {over:.4f}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="of lakes, kept between calls; bench_recipe.py can share it")
    add("--sets", nargs="+", choices=NAMED_SETS, required=True, metavar="SET", help=f"of {', '.join(NAMED_SETS)}")
    add("--methods", nargs="+", choices=NAMED, required=True, metavar="METHOD", help="as bench_recipe.py names them")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    add("--final", action="store_true", help="every seed has its own split and negatives; needs a --json of its own")
    add("--minutes", type=float, default=60.0, help="no run begins after these; 0: only lakes are built; default: 60")
    add("--json", type=Path, help="file of the runs; default: options.json in --folder")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.json = options.json or options.folder / "options.json"
    return options


if __name__ == "__main__":
    main()
