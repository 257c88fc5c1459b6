"""One MAMDR epoch over heavy-tailed domains: time per row-descent and memory against the number of domains.

    .venv/bin/python benchmarks/bench_domains.py --domains 690 6910 69102 --rows 1e5 1e6 1e7 --folder /scratch

Rows are drawn here and trained with the paper's network (three trained embeddings of 128, 256-128-64, dropout .5)
through the learner, as on a rank: DN in 16 rounds, then one pass of DR with k = 5 over all domains, theta_i in a file
in `--folder` (39 GB at 69,102 domains). Every number of domains runs in its own process. Prints a table and writes a
plot. Domains are smaller than in production; bench_production.py estimates that.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from machine import machine

from mamdr_core.config.datasets import SyntheticSettings
from mamdr_core.config.learning import DRSettings, LearningSettings
from mamdr_core.config.models import ModelSettings
from mamdr_core.datasets.world import domain_sizes
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import FileBuffer, MemoryBuffer
from mamdr_core.learning.learner import Learner
from mamdr_core.learning.mamdr import METHOD
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.parallel.supports import SupportSample
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.rounds import make_rounds, shuffle_rows

ROUNDS, K = 16, 5


def draw_columns(rows: int, domains: int) -> tuple[Columns, dict[str, int]]:
    """Domain sizes of the synthetic logs; a user per 5 rows and an item per 26, as in production."""
    random = np.random.default_rng(0)
    counts = domain_sizes(SyntheticSettings(rows=rows, domains=domains))
    sizes = {"user": max(2, rows // 5), "item": max(2, rows // 26), "domain": domains}
    drawn = {name: random.integers(1, sizes[name] + 1, rows, dtype=np.int32) for name in ("user", "item")}
    ids = {name: torch.from_numpy(column) for name, column in drawn.items()}
    ids["domain"] = torch.from_numpy(np.repeat(np.arange(1, domains + 1, dtype=np.int32), counts))
    labels = torch.from_numpy((random.random(rows) < 0.2).astype(np.float32))
    return Columns(ids, torch.zeros(rows, 0), labels, offsets_of(torch.from_numpy(counts))), sizes


def make_learner(
    columns: Columns, sizes: dict[str, int], folder: str | None, k: int = K, every: int = ROUNDS
) -> Learner:
    settings = ModelSettings()
    inputs = declare_inputs(settings, (), sizes)
    engine = FastEngine(build_model(settings, inputs), inputs.tables, {}, 1024)
    shared = initial_shared(engine.flat.module, inputs.tables, 0)
    buffer = FileBuffer(shared.dense, folder) if folder else MemoryBuffer(shared.dense)
    return Learner(
        engine=engine,
        train=columns,
        supports=SupportSample(SingleProcess(), columns, 1024, shuffle_rows(columns, 0, Arrays())),
        shared=shared,
        specific=SpecificStore(range(sizes["domain"]), buffer, shared.dense),
        average=partial(mean_change, SingleProcess()),
        settings=METHOD.settle(LearningSettings(dr=DRSettings(k=k, every=every, schedule="rounds"))),
        seed=0,
    )


def warm_up(learner: Learner) -> float:
    """Compile on a few domains of another learner's; returns the seconds."""
    started = time.perf_counter()
    few, sizes = draw_columns(5_000, 40)
    small = make_learner(
        few, {**sizes, **{name: len(learner.shared.tables[name]) - 1 for name in ("user", "item")}}, None, 1, 1
    )
    small.engine, small.shared, small.train = learner.engine, learner.shared.copy(), few
    negotiate, regularize = METHOD.shared(small), METHOD.specific(small)
    for round_ in make_rounds(RoundPlan(np.diff(few.offsets.numpy()), 1, 32, 0), 0, few, 0, Arrays()):
        negotiate(round_)
        regularize(round_)
    return time.perf_counter() - started


def measure(rows: int, domains: int, folder: str | None) -> dict[str, float]:
    """An epoch of MAMDR in this process."""
    torch.set_num_threads(2)
    columns, sizes = draw_columns(rows, domains)
    learner = make_learner(columns, sizes, folder)
    compile_seconds = warm_up(learner)
    engine = learner.engine
    engine.waited = 0.0
    plan = RoundPlan(np.diff(columns.offsets.numpy()), ROUNDS, 32, 0)
    figures = {"dn": 0.0, "dr": 0.0, "dn_rows": 0, "dr_rows": 0}
    updates = {"dn": METHOD.shared(learner), "dr": METHOD.specific(learner)}
    started = time.perf_counter()
    for number, round_ in enumerate(make_rounds(plan, 0, columns, 0, Arrays())):
        for name, update in updates.items():
            before, rows_before = time.perf_counter(), learner.rows_descended
            update(round_)
            figures[name] += time.perf_counter() - before
            figures[f"{name}_rows"] += learner.rows_descended - rows_before
        print(
            f"{domains} domains, round {number + 1}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True
        )
    return {
        **figures,
        "rows": len(columns),
        "domains": domains,
        "compile": compile_seconds,
        "wait": engine.waited,
        "vector_bytes": learner.specific.vector_bytes,
        "specific_gb": learner.specific.dense_bytes / 1e9,
        "resident_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def plot(measured: list[dict[str, float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    domains = [m["domains"] for m in measured]
    for name, label in (("dn", "DN"), ("dr", "DR, k = 5")):
        left.plot(domains, [1e6 * m[name] / m[f"{name}_rows"] for m in measured], "o-", label=label)
    left.set(xscale="log", xlabel="domains", ylabel="µs a row-descent", ylim=(0, None))
    left.legend()
    right.plot(domains, [m["resident_gb"] for m in measured], "o-", label="resident, peak")
    right.plot(domains, [m["specific_gb"] for m in measured], "s--", label="theta_i, in a file")
    right.set(xscale="log", yscale="log", xlabel="domains", ylabel="GB")
    right.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", nargs="+", type=int, default=[690, 6910])
    parser.add_argument("--rows", nargs="+", type=float, default=[1e6, 1e6], help="one for each number of domains")
    parser.add_argument("--folder", help="of theta_i's file, on a disk; none: theta_i in memory")
    parser.add_argument("--plot", type=Path, help="file of the plot, .svg; none: no plot")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(int(options.rows[0]), options.domains[0], options.folder)))
        return
    measured = []
    for domains, rows in zip(options.domains, options.rows, strict=True):
        command = [sys.executable, __file__, "--one", "--domains", str(domains), "--rows", str(rows)]
        command += ["--folder", options.folder] if options.folder else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{machine()}, 2 threads, torch {torch.__version__}")
    print("| domains | rows | DN s | DR s | DN µs a row | DR µs a row | waiting for rows | theta_i GB | resident GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for m in measured:
        print(
            f"| {m['domains']:,} | {m['rows']:,} | {m['dn']:.0f} | {m['dr']:.0f} | {1e6 * m['dn'] / m['dn_rows']:.2f} "
            f"| {1e6 * m['dr'] / m['dr_rows']:.2f} | {m['wait'] / (m['dn'] + m['dr']):.0%} "
            f"| {m['specific_gb']:.1f} | {m['resident_gb']:.1f} |"
        )
    each = [(m["dn"] + m["dr"]) / (m["dn_rows"] + m["dr_rows"]) for m in measured]
    print(f"\ntime a row-descent, most domains over fewest: {each[-1] / each[0]:.2f}\n")
    if options.plot:
        plot(measured, options.plot)


if __name__ == "__main__":
    main()
