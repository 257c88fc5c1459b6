"""Training on several threads of a rank: whole stacks divided among them, and operations that span them, in turn.

    .venv/bin/python benchmarks/bench_threads.py --threads 2

DR (a support and the target of each domain, fresh Adam) and DN (one visit after another) of the fast engine on
log-normal domains of 145 rows on average; the network of the small production run (three embeddings of 16, hidden
layers of 64 and 32), or with --paper the paper's. Both versions run the same rows in turn on all available cores, then
again while a process keeps --threads threads busy. Prints medians of seconds, and the largest difference of a
parameter.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from unittest.mock import patch

import numpy as np
import torch
from bench_domains import draw_columns
from bench_predict import BUSY
from machine import machine

import mamdr_core.engine.eager
from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import Change, Scope, Shared, Theta
from mamdr_core.models.structures import build_model, declare_inputs

RATE = 1e-3


class Work:
    """What is timed.

    Args:
        engine: runs it.
        shared: theta_S.
        columns: rows.
    """

    def __init__(self, engine: FastEngine, shared: Shared, columns: Columns) -> None:
        self._engine, self._theta = engine, Theta(shared)
        ends = columns.offsets.tolist()
        rows = [torch.arange(ends[d], ends[d + 1]) for d in columns.occupied.tolist()]
        supports = np.random.default_rng(0).permutation(len(rows))
        self._targets = [
            [Visit(columns, rows[support][: max(1, len(own) // 4)], domain), Visit(columns, own)]
            for domain, (own, support) in enumerate(zip(rows, supports, strict=True))
        ]
        self._domains = columns.occupied.tolist()

    def dr(self) -> list[Change]:
        """A step of every domain's theta_i."""
        scopes = [Scope(frozenset({"domain"}), {"domain": torch.tensor([d + 1])}) for d in self._domains]
        thetas = [self._theta] * len(scopes)
        return self._engine.descend_many(thetas, self._targets, RATE, "adam", scopes, self._domains)

    def dn(self) -> list[Change]:
        """One trajectory over a fifth of the domains."""
        return [self._engine.descend(self._theta, [visits[-1] for visits in self._targets[::5]], RATE)]


@contextmanager
def spanning() -> Iterator[None]:
    """One stack after another, each operation on all threads."""

    def run(engine: FastEngine, stacks: object, lr: float, optimizer: str) -> Iterator:
        return engine._run(engine._step, stacks, lr, optimizer, None)

    with ExitStack() as stack:
        for name in ("_run_in_threads", "_run_alone"):
            stack.enter_context(patch.object(FastEngine, name, run))
        stack.enter_context(patch.object(mamdr_core.engine.eager, "threads_for", lambda flops: nullcontext()))
        yield


def measure(work: Callable[[], list[Change]], repeats: int) -> tuple[dict[str, float], float]:
    """Median seconds of both ways, and their largest difference."""
    seconds: dict[str, list[float]] = {"spanning": [], "divided": []}
    found: dict[str, list[Change]] = {}
    for _ in range(repeats):
        for way, own in seconds.items():
            with spanning() if way == "spanning" else nullcontext():
                started = time.perf_counter()
                found[way] = work()
                own.append(time.perf_counter() - started)
    pairs = zip(found["spanning"], found["divided"], strict=True)
    gap = max(float((one.dense - other.dense).abs().max()) for one, other in pairs)
    return {way: statistics.median(own) for way, own in seconds.items()}, gap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--paper", action="store_true", help="the paper's network")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    columns, sizes = draw_columns(145 * options.domains, options.domains)
    settings = ModelSettings() if options.paper else ModelSettings(embedding_dim=16, hidden=(64, 32))
    inputs = declare_inputs(settings, (), sizes)
    engine = FastEngine(build_model(settings, inputs), inputs.tables, {}, 1024)
    work = Work(engine, initial_shared(engine.flat.module, inputs.tables, 0), columns)
    for each in (work.dr, work.dn):
        measure(each, 1)  # compiles
    print(f"{machine()}; {len(columns):,} rows of {options.domains:,} domains, {options.threads} threads\n")
    print("| | the cores | operations span threads, s | stacks divided, s | ratio | largest difference |")
    print("|---|---|---|---|---|---|")
    for cores in ("free", "shared with a busy process"):
        busy = None
        if cores != "free":
            arguments = [sys.executable, "-c", BUSY.replace("\n", f"\ntorch.set_num_threads({options.threads})\n", 1)]
            busy = subprocess.Popen(arguments)
            time.sleep(5)
        try:
            for name, each in (("DR", work.dr), ("DN", work.dn)):
                seconds, gap = measure(each, options.repeats)
                both = f"{seconds['spanning']:.2f} | {seconds['divided']:.2f}"
                ratio = seconds["spanning"] / seconds["divided"]
                print(f"| {name} | {cores} | {both} | {ratio:.1f} | {gap:.0e} |", flush=True)
        finally:
            if busy:
                busy.kill()
                busy.wait()


if __name__ == "__main__":
    main()
