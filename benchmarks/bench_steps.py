"""AUC and seconds of DR by the growth of its steps: variants from one theta_S, on domains of production's sizes.

    .venv/bin/python benchmarks/bench_steps.py --domains 69 --worlds 100 101 102

Each world (log) has its own seed of generator and training. theta_S is trained by DN in one pass, then each variant
makes passes of DR from it. Validation rows of every domain are divided alternately into a validation and a test part.
Embeddings of 16, hidden layers of 64 and 32, no dropout, `dr.rows: touched`; one thread.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from machine import machine
from production_sample import draw_columns
from production_shape import print_table, production_config, sizes_of
from recipe_sets import SETTINGS

from mamdr_core.config.job_config import Config, with_values
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.parameters import Shared
from mamdr_core.learning.methods import find_method
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.clock import Clock
from mamdr_core.runtime.stop_request import StopRequest
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.building import make_learner
from mamdr_core.training.checkpoint.checkpoints import Checkpoints
from mamdr_core.training.choices import Choices
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.trainer import Trainer

COMMON = {
    **SETTINGS, "train.batch_size": 1024, "model.dropout": 0.0, "train.method": "mamdr", "train.inner.lr": 3e-3,
    "train.epochs": 1, "train.dr.epochs": 3, "train.dr.k": 5, "train.balance_ranks": False,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "steps of 64 rows": {"train.dr.most_steps": 0, "train.dr.target_rows": 0},
    "most_steps 64": {"train.dr.most_steps": 64, "train.dr.target_rows": 0},
    "most_steps 32": {"train.dr.most_steps": 32, "train.dr.target_rows": 0},
    "most_steps 32, target_rows 16,384": {"train.dr.most_steps": 32, "train.dr.target_rows": 16_384},
}


def draw_log(domains: int, world: int) -> tuple[Config, dict[str, Columns]]:
    """The configuration of a world, and its rows by split."""
    config = production_config([f"synthetic.seed={world}", f"train.seed={world}"], domains)
    train, later = draw_columns(config)
    place = torch.arange(len(later))
    val, test = (later.take(place[place % 2 == part]) for part in (0, 1))
    return with_values(config, COMMON), {"train": train, "val": val, "test": test}


def train(config: Config, columns: Mapping[str, Columns], shared: Shared | None) -> tuple[Shared, float, float]:
    """Train theta_S, or from a given one every theta_i; returns theta_S, test AUC and seconds of the inner loops."""
    pinned = SimpleNamespace(
        sizes=sizes_of(config), counts={"train": columns["train"].counts.numpy()}, numeric=[],
        domain_ids=range(config.synthetic.domains),
    )  # fmt: skip
    everything, one = np.ones(config.synthetic.domains, dtype=bool), SingleProcess()
    method = find_method("mamdr")
    fast = Choices(torch.device("cpu"), "fast")
    share = SimpleNamespace(vectors=lambda trainable: {}, vector_shapes=lambda trainable: {})
    learner = make_learner(config, pinned, everything, one, share, columns["train"], fast)
    if shared is not None:
        learner.shared = shared.copy()
    clock = Clock()
    Trainer(
        settings=config.train,
        learner=learner,
        method=replace(method, specific=None) if shared is None else replace(method, shared=None),
        counts_n=pinned.counts["train"],
        owned_n=everything,
        collective=one,
        val=columns["val"],
        arrays=Arrays(),
        clock=clock,
        checkpoints=Checkpoints(None, config.train.checkpoint, one, StopRequest()),
    ).train()
    measured = evaluate_columns(learner.engine, learner.shared, learner.specific, columns["test"], one)
    return learner.shared, measured.mean_auc(), clock.seconds["inner"]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, default=69)
    parser.add_argument("--worlds", type=int, nargs="+", default=[100, 101, 102])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    aucs: dict[str, list[float]] = {label: [] for label in ["theta_S alone", *VARIANTS]}
    seconds: dict[str, list[float]] = {label: [] for label in aucs}
    for world in options.worlds:
        config, columns = draw_log(options.domains, world)
        shared, auc, spent = train(config, columns, None)
        aucs["theta_S alone"].append(auc)
        seconds["theta_S alone"].append(spent)
        for label, values in VARIANTS.items():
            _, auc, spent = train(with_values(config, values), columns, shared)
            aucs[label].append(auc)
            seconds[label].append(spent)
            print(f"world {world}, {label}: {auc:.4f} in {spent:.1f} s", file=sys.stderr, flush=True)
    print(machine())
    equal = np.array(aucs["steps of 64 rows"])
    rows = []
    for label, found in aucs.items():
        gain = np.array(found) - equal
        spread = f" ± {gain.std(ddof=1):.4f}" if len(gain) > 1 else ""
        rows.append([label, " ".join(f"{auc:.4f}" for auc in found), f"{gain.mean():+.4f}{spread}",
                     f"{np.median(seconds[label]):.0f}"])  # fmt: skip
    print_table("variant | test AUC by world | against steps of 64 rows | seconds, median", rows)


if __name__ == "__main__":
    main(sys.argv[1:])
