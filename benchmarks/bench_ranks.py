"""AUC against the number of ranks: DN with three outer optimizers, and joint training, on equally many rows.

    .venv/bin/python benchmarks/bench_ranks.py --json /tmp/ranks.json --seeds 0 1 2 3 4 --ranks 1 8
    .venv/bin/python benchmarks/bench_ranks.py --json /tmp/ranks.json --choose --seeds 0 --ranks 1 8

Ranks are simulated in this process, one after another between collectives, by the product's Trainer (ranks_training.py)
on logs in memory (ranks_worlds.py). Every run completes all of its epochs, so that all descend on the same number of
rows, and keeps the theta_S of its best validation, of which there are four per epoch. Runs are kept in --json: a second
start runs only what is missing, and the table contains all runs of the file.

--choose runs on separate logs, on which settings are chosen by validation AUC; without it every seed has its own log,
on which no choice was made. A point is a label's default rates with some of them raised (`POINTS`). The table has the
test AUC, mean over domains, on one rank, and the difference of other numbers of ranks from it, paired by seed; ± is a
standard deviation over seeds.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from ranks_training import Trained, train_ranks
from ranks_worlds import KINDS, draw_log

from mamdr_core.config.job_config import with_values
from mamdr_core.experiments.figures import spread

FIRST_WORLD, FIRST_CHOOSING_WORLD = 200, 50
"""Seeds of the generator and of the split, those of bench_recipe.py being 0 and 100 to 104."""
LR, BETA = "train.inner.lr", "train.outer.beta"


@dataclass(frozen=True)
class Label:
    """A method with its outer optimizer.

    Attributes:
        values: config keys, the default rates.
        raised: the same rates, raised.
    """

    values: Mapping[str, Any]
    raised: Mapping[str, float]


def _dn(optimizer: str, beta: float, raised: float) -> Label:
    values = {"train.method": "dn", "train.outer.optimizer": optimizer, LR: 3e-4, BETA: beta}
    return Label(values, {LR: 1e-3, BETA: raised})


LABELS: dict[str, Label] = {
    "dn adam": _dn("adam", 2e-3, 6e-3),
    "dn sgd": _dn("sgd", 0.7, 2.0),
    "dn nesterov": _dn("nesterov", 0.5, 1.0),
    "joint": Label({"train.method": "joint", LR: 1e-3}, {LR: 3e-3}),
    "joint_data_parallel": Label({"train.method": "joint_data_parallel", LR: 1e-3}, {LR: 3e-3}),
}
POINTS: dict[str, tuple[str, ...]] = {"default": (), "inner": (LR,), "outer": (BETA,), "both": (LR, BETA)}
"""Rates that are raised."""
TIMES_RANKS, DENSE_TIMES_RANKS = "times_ranks", "dense_times_ranks"
SCALED = {TIMES_RANKS: ("dn sgd", "dn nesterov"), DENSE_TIMES_RANKS: ("dn sgd", "dn nesterov", "joint")}
"""Two more points, with the labels that have them: beta is W times the default one, as the mean over W ranks of their
changes is W times as short as their sum; or the mean change of dense parameters alone is W times as long. Not for the
outer Adam, which scales the mean itself."""


@dataclass(frozen=True)
class Trial:
    """A run's place in the table.

    Attributes:
        kind: of world.
        label, point: method and rates.
        placement: static, or reshuffled in every epoch.
        ranks: W.
        seed: of training; it also selects the world.
        world: seed of the generator and of the split.
    """

    kind: str
    label: str
    point: str
    placement: str
    ranks: int
    seed: int
    world: int


def trials_of(options: argparse.Namespace) -> Iterator[Trial]:
    """The runs that are asked for, one seed after another."""
    first = FIRST_CHOOSING_WORLD if options.choose else FIRST_WORLD
    asked = product(
        options.seeds, options.kinds, options.labels, options.points, options.placements, sorted(options.ranks)
    )
    for seed, kind, label, point, placement, ranks in asked:
        if is_known(label, point) and (ranks > 1 or (placement == "static" and point not in SCALED)):
            yield Trial(kind, label, point, placement, ranks, seed, first + seed)


def is_known(label: str, point: str) -> bool:
    """Whether a label has the rates that a point raises."""
    if point in SCALED:
        return label in SCALED[point]
    return set(POINTS[point]) <= set(LABELS[label].raised)


def rates_of(trial: Trial) -> dict[str, Any]:
    """Config keys of the trial's method and rates."""
    label = LABELS[trial.label]
    if trial.point == TIMES_RANKS:
        return {**label.values, BETA: trial.ranks * label.values[BETA]}
    return {**label.values, **{key: label.raised[key] for key in POINTS.get(trial.point, ())}}


def run_trial(trial: Trial, values: Mapping[str, Any] | None = None) -> Trained:
    """Train and measure; `values` are config keys over those of the world's kind."""
    log = draw_log(trial.kind, trial.world, values)
    config = with_values(log.config, {**rates_of(trial), "train.seed": trial.seed})
    dense_scale = trial.ranks if trial.point == DENSE_TIMES_RANKS else 1.0
    return train_ranks(log, config, trial.ranks, trial.placement == "reshuffled", dense_scale)


def report(runs: Mapping[Trial, Trained]) -> str:
    """Tables in Markdown, one for each kind of world."""
    lines = [f"{machine()}, torch {torch.__version__}"]
    all_ranks = sorted({trial.ranks for trial in runs})
    head = ["method", "rates", "placement", *(f"W = {ranks}" for ranks in all_ranks), "validation", "best at"]
    for kind, choosing in sorted({(trial.kind, trial.world < FIRST_WORLD) for trial in runs}):
        own = {at: run for at, run in runs.items() if (at.kind, at.world < FIRST_WORLD) == (kind, choosing)}
        rows = "; ".join(f"{rows:,}" for rows in sorted({run.rows for run in own.values()}))
        lines += ["", f"{kind}{', for choices' if choosing else ''}: {rows} rows descended on", ""]
        lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for label, point, placement in product(LABELS, (*POINTS, *SCALED), ("static", "reshuffled")):
            row = {
                at: run for at, run in own.items() if (at.label, at.point, at.placement) == (label, point, placement)
            }
            if row:
                lines.append(f"| {label} | {point} | {placement} | {' | '.join(_cells(row, own, all_ranks))} |")
    return "\n".join(lines)


def _cells(row: Mapping[Trial, Trained], own: Mapping[Trial, Trained], all_ranks: Sequence[int]) -> Iterator[str]:
    """AUC on one rank, differences from it by W; then by W validation AUCs, and after which share of rounds."""
    first = next(iter(row))
    point = "default" if first.point in SCALED else first.point
    one = {
        at.seed: run.test_auc for at, run in own.items() if (at.label, at.point, at.ranks) == (first.label, point, 1)
    }
    for ranks in all_ranks:
        found = {at.seed: run.test_auc for at, run in row.items() if at.ranks == ranks}
        against = [auc - one[seed] for seed, auc in found.items() if seed in one]
        if ranks == 1 or not against:
            yield _with_spread(list(found.values()))
        else:
            yield _with_spread(against, "+")
    for figure, digits in (("val_auc", 4), ("best", 2)):
        by_ranks = [[getattr(run, figure) for at, run in row.items() if at.ranks == ranks] for ranks in all_ranks]
        yield ", ".join(f"{np.mean(values):.{digits}f}" if values else "" for values in by_ranks)


def _with_spread(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return ""
    over = spread(np.array(values))
    return f"{np.mean(values):{sign}.4f}" + ("" if over is None else f" ± {over:.4f}") + f" ({len(values)})"


def read_runs(path: Path | None) -> dict[Trial, Trained]:
    """Runs of earlier calls."""
    if not path or not path.exists():
        return {}
    return {Trial(**each["trial"]): Trained(**each["trained"]) for each in json.loads(path.read_text())}


def main(arguments: list[str] | None = None) -> None:
    options = _parse(arguments)
    torch.set_num_threads(1)
    runs = read_runs(options.json)
    missing = [trial for trial in trials_of(options) if trial not in runs]
    started = time.perf_counter()
    for number, trial in enumerate(missing):
        if time.perf_counter() - started > options.minutes * 60:
            print(f"{len(missing) - number} runs are left", file=sys.stderr)
            break
        runs[trial] = run_trial(trial)
        print(f"{number + 1}/{len(missing)} {trial} {runs[trial]}", file=sys.stderr, flush=True)
        if options.json:
            kept = [{"trial": asdict(at), "trained": asdict(run)} for at, run in runs.items()]
            options.json.write_text(json.dumps(kept, indent=1) + "\n")
    print(report(runs))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    for name, known in (("kinds", KINDS), ("labels", LABELS)):
        add(f"--{name}", nargs="+", choices=known, default=list(known), metavar="NAME",
            help=f"default: all of {', '.join(known)}")  # fmt: skip
    add("--points", nargs="+", choices=[*POINTS, *SCALED], default=["default"], help="default: default")
    add("--placements", nargs="+", choices=["static", "reshuffled"], default=["static"], help="default: static")
    add("--ranks", nargs="+", type=int, default=[1, 8], help="W; default: 1 8")
    add("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    add("--choose", action="store_true", help="on the worlds for choices")
    add("--minutes", type=float, default=60.0, help="no run begins after these; default: 60")
    add("--json", type=Path, help="file of the runs; default: none")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
