"""Small steps with all of torch's checks of compiled gradients and with direct calls, in turn in one process.

    .venv/bin/python benchmarks/bench_checks.py

The network of the small production run (three embeddings of 16, hidden layers of 64 and 32), 700,000 users, one thread.
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from functools import partial
from unittest.mock import patch

import torch
from bench_engine import draw_columns
from machine import machine

from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.direct_calls import DirectCalls
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Change, Scope, Theta
from mamdr_core.models.structures import build_model, declare_inputs

USERS, ITEMS, DOMAINS = 700_000, 136_000, 256
STEPS, ROWS, RATE = 90, 64, 1e-3


class Work:
    """Trajectories from one theta_S."""

    def __init__(self) -> None:
        settings = ModelSettings(embedding_dim=16, hidden=(64, 32))
        inputs = declare_inputs(settings, (), {"user": USERS, "item": ITEMS, "domain": DOMAINS})
        self._engine = FastEngine(build_model(settings, inputs), inputs.tables, {}, 1024)
        self._shared = initial_shared(self._engine.flat.module, inputs.tables, 0)
        self._columns = draw_columns(DOMAINS, ROWS, USERS, ITEMS)
        self.state = InnerState.zeros_like(self._shared)

    def _visit(self, first: int, rows: int, as_domain: int | None = None) -> Visit:
        return Visit(self._columns, torch.arange(first, first + rows), as_domain)

    def dn(self, rows: int) -> list[Change]:
        """One trajectory of `STEPS` steps, from moments that it changes."""
        visits = [self._visit(step * rows, rows) for step in range(STEPS)]
        return [self._engine.descend(Theta(self._shared), visits, RATE, "adam", self.state)]

    def dr(self, count: int) -> list[Change]:
        """A step on a support and one on the target of each trajectory."""
        visits = [[self._visit((d + 1) * ROWS, ROWS, d), self._visit(d * ROWS, ROWS)] for d in range(count)]
        scopes = [Scope(frozenset({"domain"}), {"domain": torch.tensor([d + 1])}) for d in range(count)]
        thetas, seeds = [Theta(self._shared)] * count, list(range(count))
        return self._engine.descend_many(thetas, visits, RATE, "adam", scopes, seeds)

    def forget(self) -> None:
        """Set moments to zero."""
        self.state = InnerState.zeros_like(self._shared)


def checked(direct: DirectCalls, _: object, __: object, *arguments: object) -> object:
    """A call through torch."""
    return direct._function(*arguments)


def is_equal(one: Change, other: Change) -> bool:
    """Whether two changes have the same bits."""
    rows = [(own, other.rows[name]) for name, own in one.rows.items()]
    same = all(torch.equal(own.ids, its.ids) and torch.equal(own.values, its.values) for own, its in rows)
    return torch.equal(one.dense, other.dense) and one.rows.keys() == other.rows.keys() and same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = Work()
    cases = {f"DN, {rows} rows": (partial(work.dn, rows), STEPS) for rows in (29, 134)}
    cases |= {f"DR, {count} x {ROWS} rows": (partial(work.dr, count), 2) for count in (1, 4, 16)}
    print(f"{machine()}\n\n| steps | with checks, processor µs | directly | ratio | equal |\n|---|---|---|---|---|")
    for name, (run, steps) in cases.items():
        took: dict[str, list[float]] = {"checked": [], "direct": []}
        found: dict[str, list[Change]] = {}
        for repeat in range(options.repeats + 1):  # the first one compiles
            for way, own in took.items():
                if not repeat:
                    work.forget()
                with patch.object(DirectCalls, "__call__", checked) if way == "checked" else nullcontext():
                    started = time.process_time()
                    changes = run()
                own.append((time.process_time() - started) / steps * 1e6)
                found.setdefault(way, changes)
        equal = all(is_equal(one, other) for one, other in zip(*found.values(), strict=True))
        with_checks, directly = (statistics.median(own[1:]) for own in took.values())
        print(f"| {name} | {with_checks:.0f} | {directly:.0f} | {with_checks / directly:.2f} | {equal} |", flush=True)


if __name__ == "__main__":
    main()
