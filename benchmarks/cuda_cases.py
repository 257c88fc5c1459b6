"""Columns, engines and trajectories of the paper's network for bench_cuda; needs torch and numpy alone.

Shape suffixes: B rows of a step, G trajectories, P dense parameters.
"""

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from unittest.mock import patch

import torch
from torch import nn

from mamdr_core.config.models import ModelSettings
from mamdr_core.engine import layout
from mamdr_core.engine.columns import Columns, Visit, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import Change, Rows, Scope, Shared, Theta
from mamdr_core.models.structures import build_model
from mamdr_core.models.tables import Inputs, Table

WIDTH, BATCH = 128, 1024
WIDTHS = [3 * WIDTH, 256, 128, 64, 1]
Shape = tuple[int, int]
"""Trajectories G, and padded rows B of each."""


@dataclass
class Machine:
    """Where cases run.

    Attributes:
        device: cuda or cpu.
        compiles: whether steps are compiled.
        scale: of the numbers of steps, domains, users and items; 1: those of the published run.
    """

    device: torch.device
    compiles: bool
    scale: float

    @property
    def precisions(self) -> list[str]:
        """What the device computes in."""
        return ["fp32", "tf32", "bf16"] if self.device.type == "cuda" else ["fp32", "bf16"]

    @property
    def is_check(self) -> bool:
        """Whether the script is checked, and nothing measured: every case once, the smallest shapes alone."""
        return self.scale < 0.1

    @property
    def repeats(self) -> int:
        """Timed calls of a case."""
        return 1 if self.is_check else 5

    def scaled(self, number: int, least: int = 2) -> int:
        """A number at this scale."""
        return max(least, int(number * self.scale))

    def wait(self) -> None:
        """Until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def release(self) -> None:
        """Free what is not used any more."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def seconds(self, task: Callable[[], object], repeats: int) -> list[float]:
        """Of some calls, after one that is the first of the result: it compiles and warms up."""
        took = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            task()
            self.wait()
            took.append(time.perf_counter() - started)
        return took


def draw_columns(rows_by_domain: list[int], users: int, items: int, seed: int = 0) -> Columns:
    """Random rows of some domains, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor(rows_by_domain)
    rows = int(counts.sum())
    domains = torch.arange(1, len(rows_by_domain) + 1, dtype=torch.int32)
    return Columns(
        ids={
            "user": torch.randint(1, users + 1, (rows,), generator=generator, dtype=torch.int32),
            "item": torch.randint(1, items + 1, (rows,), generator=generator, dtype=torch.int32),
            "domain": torch.repeat_interleave(domains, counts),
        },
        numeric=torch.zeros(rows, 0),
        labels=torch.randint(0, 2, (rows,), generator=generator).float(),
        offsets=offsets_of(counts),
    )


@dataclass(frozen=True)
class Model:
    """The paper's network over users, items and domains; `trains`: users and items have trained embeddings."""

    users: int
    items: int
    domains: int
    trains: bool
    dtype: torch.dtype = torch.float32

    @property
    def tables(self) -> tuple[Table, ...]:
        """Of width 128."""
        return (
            Table("user", "user", self.users + 1, WIDTH, self.trains),
            Table("item", "item", self.items + 1, WIDTH, self.trains),
            Table("domain", "domain", self.domains + 1, WIDTH),
        )

    def module(self) -> nn.Module:
        """Seeded."""
        return build_model(ModelSettings(), Inputs(self.tables), seed=1).to(self.dtype)

    def shared(self, device: torch.device) -> Shared:
        """theta_S; equal on all devices."""
        drawn = initial_shared(self.module(), self.tables, 2)
        tables = {name: table.to(self.dtype) for name, table in drawn.tables.items()}
        return Shared(drawn.dense, tables).to(device)

    def engine(self, machine: Machine, precision: str | None, compiles: bool | None = None) -> EagerEngine:
        """The fast engine of a precision, or without one the eager engine."""
        generator = torch.Generator().manual_seed(3)
        frozen = {
            table.name: torch.randn(table.rows, WIDTH, generator=generator).to(self.dtype)
            for table in self.tables
            if not table.trainable
        }
        if precision is None:
            torch.set_float32_matmul_precision("highest")
            return EagerEngine(self.module(), self.tables, frozen, BATCH, machine.device)
        compiles = machine.compiles if compiles is None else compiles
        return FastEngine(
            self.module(), self.tables, frozen, BATCH, machine.device, precision=precision, compiles=compiles
        )


def visits_of(columns: Columns) -> list[Visit]:
    """Every domain's rows, on the device of the columns."""
    edges = columns.offsets.tolist()
    return [Visit(columns, torch.arange(a, b, device=columns.labels.device)) for a, b in pairwise(edges)]


def specific_of(shared: Shared, domains: int) -> list[Change]:
    """theta_i, not zero, of dense parameters and the domain's embedding; equal on all devices and in all types."""
    generator = torch.Generator().manual_seed(4)
    device, dtype, width = shared.dense.device, shared.dense.dtype, shared.tables["domain"].shape[1]
    found = []
    for domain in range(domains):
        dense_P = 0.01 * torch.randn(len(shared.dense), generator=generator)
        row = 0.01 * torch.randn(1, width, generator=generator)
        rows = Rows(torch.tensor([domain + 1], device=device), row.to(device, dtype))
        found.append(Change(dense_P.to(device, dtype), {"domain": rows}))
    return found


def regularization(columns: Columns, shared: Shared, supports: int) -> tuple[list, list, float, str, list, list]:
    """DR's arguments of `descend_many`: for each domain some trajectories of a support's rows, then the target's."""
    visits, thetas, pairs, scopes = visits_of(columns), [], [], []
    for domain, specific in enumerate(specific_of(shared, len(visits))):
        own = Scope(frozenset({"domain"}), {"domain": torch.tensor([domain + 1], device=shared.dense.device)})
        for number in range(supports):
            support = visits[(domain + number + 1) % len(visits)]
            thetas.append(Theta(shared, specific))
            pairs.append([Visit(columns, support.rows, as_domain=domain), visits[domain]])
            scopes.append(own)
    return thetas, pairs, 1e-3, "adam", scopes, list(range(len(thetas)))


@contextmanager
def counting_shapes() -> Iterator[Counter[Shape]]:
    """How many steps of each shape the fast engine makes in the block."""
    shapes: Counter[Shape] = Counter()
    lay_steps = layout.lay_steps

    def counted(*arguments):
        steps = lay_steps(*arguments)
        shapes.update((len(batches), rows) for batches, rows in zip(steps.batches, steps.rows_S, strict=True))
        return steps

    with patch.object(layout, "lay_steps", counted):
        yield shapes


def median_after_first(took: list[float]) -> float:
    """The first call compiles."""
    return statistics.median(took[1:])
