"""Peak memory of a rank with large replicated tables, by part of a run, in multiples of the size of the tables.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_memory.py

A run of MAMDR (settled) on a user table of 4 M rows of 16: rounds of DN with carried Adam moments and outer Adam, a
validation after every round, then passes of DR, then the package. Peaks are the kernel's (VmHWM), reset before each
part, minus the memory of the process before the tables were created. It needs about 4 GB. With --mapped all but theta_S
is memory-mapped, and peaks are those of anonymous memory (RssAnon, sampled), which the kernel cannot write back to
files.
"""

import argparse
import gc
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from machine import machine

from mamdr_core.config.engine import InnerSettings
from mamdr_core.config.learning import DRSettings
from mamdr_core.config.models import ModelSettings
from mamdr_core.config.training import CheckpointSettings, TrainSettings
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.state_memory import IN_MEMORY
from mamdr_core.learning.learner import Learner
from mamdr_core.learning.methods import find_method
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.clock import Clock
from mamdr_core.runtime.stop_request import StopRequest
from mamdr_core.shards.arrays import Arrays
from mamdr_core.shards.mapped_state import MappedState
from mamdr_core.training.building import make_store
from mamdr_core.training.checkpoint import checkpoints
from mamdr_core.training.checkpoint.checkpoints import CheckpointLocation, Checkpoints
from mamdr_core.training.package import save_rank
from mamdr_core.training.trainer import Trainer

DOMAINS = 20


def resident(name: str) -> int:
    """Bytes of VmRSS, VmHWM or RssAnon."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


class PeakOfAnonymous:
    """The largest RssAnon in a block, sampled every millisecond, as the kernel keeps no peak of it."""

    def __enter__(self) -> "PeakOfAnonymous":
        self.found, self._ends = resident("RssAnon"), threading.Event()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._ends.is_set():
            self.found = max(self.found, resident("RssAnon"))
            time.sleep(0.001)


@dataclass
class Peaks(Clock):
    """A clock that also keeps the peak and the final memory of every phase.

    Args:
        before: bytes of the process before the tables.
        tables: bytes of the tables.
        anonymous: leave out what is mapped of files.
    """

    before: int
    tables: int
    anonymous: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.peak: dict[str, float] = {}
        self.after: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note the peak and the end of a block."""
        Path("/proc/self/clear_refs").write_text("5")
        with PeakOfAnonymous() if self.anonymous else nullcontext() as sampled, super().phase(name):
            yield
        peak, after = (sampled.found, "RssAnon") if sampled else (resident("VmHWM"), "VmRSS")
        for found, size in ((self.peak, peak), (self.after, resident(after))):
            found[name] = max(found.get(name, 0.0), (size - self.before) / self.tables)


def columns_of(rows: int, users: int, generator: torch.Generator) -> Columns:
    """Random rows of equal domains; every user occurs if there are enough rows."""
    domain = torch.arange(rows) * DOMAINS // rows
    user = torch.randperm(max(rows, users), generator=generator)[:rows] % users
    ids = {"user": (user + 1).int(), "item": torch.ones(rows).int(), "domain": (domain + 1).int()}
    labels = (user % 2 == 0).float()
    return Columns(ids, torch.zeros(rows, 0), labels, offsets_of(torch.bincount(domain, minlength=DOMAINS)))


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Train, and return the peaks by phase."""
    checkpoint = CheckpointSettings(minutes=0, rounds=1 if arguments.checkpoints else 0)
    settings = TrainSettings(
        method="mamdr", batch_size=4096, rounds_per_epoch=4, validate_every=1, epochs=1, engine="eager",
        inner=InnerSettings(lr=0.01), dr=DRSettings(epochs=2, batch_size=4096, k=1), checkpoint=checkpoint,
    )  # fmt: skip
    method, model = find_method(settings.method), ModelSettings(hidden=(8,), embedding_dim=arguments.width)
    generator = torch.Generator().manual_seed(0)
    train, val = (columns_of(rows, arguments.users, generator) for rows in (arguments.rows, 20_000))
    inputs = declare_inputs(model, (), {"user": arguments.users, "item": 9, "domain": DOMAINS})
    module = build_model(model, inputs, 0)
    engine = EagerEngine(module, inputs.tables, {}, settings.batch_size)
    tables = sum(4 * table.rows * table.width for table in inputs.tables)
    gc.collect()
    clock = Peaks(resident("RssAnon" if arguments.mapped else "VmRSS"), tables, arguments.mapped)
    with clock.phase("tables"):
        shared = initial_shared(module, inputs.tables, 0)
    learner = Learner(
        engine=engine, train=train, supports=None, shared=shared,
        specific=make_store(settings, shared.dense, train.occupied.tolist()),
        average=partial(mean_change, SingleProcess()), settings=method.settle(settings.learning), seed=0,
        state_memory=MappedState() if arguments.mapped else IN_MEMORY,
    )  # fmt: skip
    del shared  # it is the learner's, which replaces it
    place = CheckpointLocation(str(folder / "checkpoints"))
    trainer = Trainer(
        settings=settings, learner=learner, method=method, counts_n=train.counts.numpy(),
        owned_n=np.ones(DOMAINS, dtype=bool), collective=SingleProcess(), val=val, arrays=Arrays(), clock=clock,
        checkpoints=Checkpoints(place, settings.checkpoint, SingleProcess(), StopRequest()),
    )  # fmt: skip
    shared_stage, specific_stage = trainer.stages
    trainer.stages = [shared_stage]
    outcome = trainer.train()
    by_stage = {"DN": (dict(clock.peak), dict(clock.after))}
    clock.peak.clear()
    clock.after.clear()
    trainer.stages.append(replace(specific_stage))
    trainer.checkpoints = Checkpoints(place, settings.checkpoint, SingleProcess(), StopRequest())
    trainer.train()
    by_stage["DR"] = (dict(clock.peak), dict(clock.after))
    with clock.phase("package"):
        save_rank(str(folder / "package"), 0, learner.shared, learner.specific)
    by_stage["package"] = ({"package": clock.peak["package"]}, {"package": clock.after["package"]})
    return {"tables_mb": tables / 1e6, "rounds": outcome.rounds, "seconds": clock.seconds, **{
        stage: {name: f"{peak[name]:.1f} (after: {after[name]:.1f})" for name in peak}
        for stage, (peak, after) in by_stage.items()
    }}  # fmt: skip


def main() -> None:
    """Run and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=4_000_000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--checkpoints", action="store_true", help="write a checkpoint after every round")
    parser.add_argument("--no-room", action="store_true", help="as if no memory were available for copies of it")
    parser.add_argument("--mapped", action="store_true", help="memory-map all but theta_S, as train.table_memory does")
    arguments = parser.parse_args()
    if arguments.no_room:
        checkpoints.available_memory = lambda: 0
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"machine": machine(), **run(arguments, Path(folder))}, indent=1))


if __name__ == "__main__":
    main()
