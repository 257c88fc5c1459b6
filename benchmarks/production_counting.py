"""A learner that counts the requested work and computes nothing, as long as no parameter is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from production_shape import Ints, empty_columns, inputs_of, rows_by_domain

from mamdr_core.config.job_config import Config
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.memory import bytes_per_row, stack_limits
from mamdr_core.engine.parameters import Change, Scope, Shared, Theta
from mamdr_core.engine.specific_store import group_size
from mamdr_core.engine.stacking import PaddedSteps, Trajectory, cut_stacks, sort_trajectories
from mamdr_core.engine.steps import ROWS_MULTIPLE
from mamdr_core.learning.learner import Draw, Learner
from mamdr_core.learning.methods import find_method
from mamdr_core.models.structures import build_model

H100_MEMORY = 40.0
"""GB of a stack on a GPU where `train.group_memory` is 0: half of an H100's memory."""


@dataclass
class StackCount:
    """What stacks add up to: `steps` run one after another, each of one stack."""

    stacks: int = 0
    trajectories: int = 0
    steps: int = 0
    rows: int = 0
    padded: int = 0
    grouped: int = 0
    """Rows times the trajectories of their stack."""

    def add(self, stack: Sequence[Trajectory]) -> None:
        """Count a stack's steps as `lay_steps` pads them."""
        padded = PaddedSteps.none()
        for trajectory in stack:
            padded = padded.with_one(trajectory.rows_S)
        self.stacks += 1
        self.trajectories += len(stack)
        self.steps += len(padded.widest_S)
        self.rows += padded.rows
        self.padded += int(padded.running_S @ (-(-padded.widest_S // ROWS_MULTIPLE) * ROWS_MULTIPLE))
        self.grouped += sum(int(padded.running_S[: len(own.rows_S)] @ own.rows_S) for own in stack)


class CountingEngine(EagerEngine):
    """Cuts trajectories into stacks as `FastEngine` does on a type of device, and counts them."""

    def __init__(self, config: Config, device: str) -> None:
        inputs = inputs_of(config)
        super().__init__(build_model(config.model, inputs), inputs.tables, {}, config.train.batch_size)
        memory = config.train.group_memory or (H100_MEMORY if device == "cuda" else 0.0)
        limits = stack_limits(self.flat, self.tables, torch.device(device), memory)
        self.limits = replace(limits, row_bytes=bytes_per_row(self.flat, self.tables, inputs.numeric))
        self.count = StackCount()

    def descend(self, theta: Theta, *_: object, **__: object) -> Change:
        return Change(torch.zeros_like(theta.shared.dense))

    def descend_many(
        self,
        thetas: Sequence[Theta],
        visits: Sequence[Sequence[Visit]],
        lr: float,
        optimizer: str,
        scopes: Sequence[Scope],
        seeds: Sequence[int],
    ) -> list[Change]:
        for stack in cut_stacks(sort_trajectories(thetas, visits, scopes, seeds, self.batch_size), self.limits):
            self.count.add(stack)
        return [NOTHING] * len(thetas)


class _Nothing(Change):
    def move(self, other: Change, scale: float) -> None:
        """theta_i is not kept."""


NOTHING = _Nothing(torch.zeros(0))


class NoStore:
    """theta_i in the groups of a real store, without values."""

    def __init__(self, size: int) -> None:
        self._size = size

    def groups(self, domains: Sequence[int]) -> Iterator[dict[int, Change]]:
        for first in range(0, len(domains), self._size):
            yield dict.fromkeys(domains[first : first + self._size], NOTHING)

    def keep(self) -> None:
        """There is nothing to keep."""


class NoSupports:
    """Samples of all domains, which give away positions without rows."""

    def __init__(self, counts_n: Ints) -> None:
        self.counts_n, self.occupied = counts_n, np.flatnonzero(counts_n)
        self._columns, self._position = empty_columns(counts_n), torch.zeros(1, dtype=torch.int8)

    def fetch(self, draws: Sequence[Draw]) -> tuple[Columns, list[torch.Tensor]]:
        return self._columns, [self._position.expand(size) for _, _, size in draws]


def counting_learner(config: Config, device: str, shared: Shared | None = None) -> Learner:
    """A learner that counts what it is asked to do, with all domains' rows and support rows.

    Args:
        config: of the run.
        device: type of device whose stacks are cut.
        shared: theta_S; None: without tables.
    """
    counts_n, _ = rows_by_domain(config)
    engine = CountingEngine(config, device)
    settings = find_method(config.train.method).settle(config.train.learning)
    dense = engine.flat.values_P
    return Learner(
        engine=engine,
        train=empty_columns(counts_n),
        supports=NoSupports(np.minimum(counts_n, settings.dr.support_rows)),
        shared=shared or Shared(dense, {}),
        specific=NoStore(group_size(device, dense.nbytes)),
        average=lambda change, weight: change,
        settings=settings,
        seed=config.train.seed,
    )
