"""What a learning method works with on one rank: parameters, rows, engine, settings, and the mean over ranks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.parameter_state import shared_of, shared_state
from mamdr_core.engine.parameters import Change, Rows, Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.state_memory import IN_MEMORY, StateMemory
from mamdr_core.learning.settings import LearningSettings
from mamdr_core.stateful import State


@dataclass(frozen=True)
class Round:
    """The part of one round that this rank does.

    Attributes:
        epoch: from 0.
        number: round within the epoch, from 0.
        slices: by own domain, in the round's random order: positions of its rows of this round in `Learner.train`.
        shuffled: positions of as many rows of all own domains, shuffled together; None unless `Method.mixes`.
        balanced: where ranks lend rows to others, by domain, what this rank visits for theta_S; None: its own slices.
        inner_factor, outer_factor: of theta_S's learning rates alpha and beta in this round.
    """

    epoch: int
    number: int
    slices: dict[int, Tensor]
    shuffled: Tensor | None = None
    balanced: dict[int, Visit] | None = None
    inner_factor: float = 1.0
    outer_factor: float = 1.0

    def visits(self, train: Columns) -> dict[int, Visit]:
        """What theta_S learns from, by domain in the round's random order: own slices, or what is left and borrowed.

        Args:
            train: `Learner.train`.
        """
        if self.balanced is not None:
            return self.balanced
        return {domain: Visit(train, rows) for domain, rows in self.slices.items()}

    def mixed(self, train: Columns) -> Visit:
        """The round's rows of all own domains, shuffled together.

        Args:
            train: `Learner.train`.

        Raises:
            ValueError: the method does not declare that it mixes rows, a bug.
        """
        if self.shuffled is None:
            raise ValueError("this round has no mixed rows: the method must declare mixes=True")
        return Visit(train, self.shuffled)


Draw = tuple[int, int, int]
"""Some rows of a domain's sample: the domain, the first row within the sample, and how many rows."""


class Supports(Protocol):
    """A sample of every domain's rows that DR draws from; `mamdr_core.parallel.supports` implements it."""

    counts_n: NDArray[np.int64]
    """Rows of each domain's sample, [n], the same on all ranks."""
    occupied: NDArray[np.int64]
    """Domains with rows, ascending, the same on all ranks."""

    def fetch(self, draws: Sequence[Draw]) -> tuple[Columns, list[Tensor]]:
        """Columns, and for each draw the positions of its rows there; every rank takes part."""


@dataclass
class Learner:
    """The parameters and tools of a run on one rank, whatever the learning method; its state is theta_S.

    Attributes:
        engine: the three primitives.
        train: this rank's training rows.
        supports: what DR draws support rows from.
        shared: theta_S, the same on all ranks after every round.
        specific: theta_i by domain index, of this rank's domains.
        average: mean over ranks of changes, weighted by a number.
        average_gradient: the gradient of the mean loss over the rows of all ranks, from each rank's own gradient and
            its rows' weights together.
        gather: all ranks' numbers, in rank order.
        settings: of the method.
        seed: of the run.
        most: the largest over ranks of a number.
        rank: this rank; decides dropout.
        state_memory: where moments, momenta and the best theta_S are stored.
        rows_descended: rows that inner loops of this rank have descended on.
    """

    engine: EagerEngine
    train: Columns
    supports: Supports | None
    shared: Shared
    specific: SpecificStore
    average: Callable[[Change, float], Change]
    settings: LearningSettings
    seed: int
    most: Callable[[int], int] = int
    average_gradient: Callable[[Change, float], Change] = lambda gradient, rows: gradient
    gather: Callable[[int], list[int]] = lambda number: [number]
    rank: int = 0
    state_memory: StateMemory = IN_MEMORY
    rows_descended: int = 0

    def no_change(self) -> Change:
        """A change of theta_S that moves nothing, with every table, so that ranks without rows average along."""
        nothing = torch.zeros(0, dtype=torch.long, device=self.shared.dense.device)
        rows = {
            name: Rows(nothing, self.shared.dense.new_zeros(0, table.shape[1]))
            for name, table in self.shared.tables.items()
        }
        return Change(torch.zeros_like(self.shared.dense), rows)

    def prefetch(self, visits: Iterable[Visit]) -> None:
        """Prefetch theta_S's embedding rows that `visits` read; see `Shared.reach`."""
        self.shared.reach(visits)

    def count(self, visits: Sequence[Visit]) -> int:
        """Number of rows of some visits; also counts them as descended on."""
        rows = sum(len(visit.rows) for visit in visits)
        self.rows_descended += rows
        return rows

    def alpha(self, round_: Round) -> float:
        """Learning rate of theta_S's inner steps in a round."""
        return self.settings.alpha * round_.inner_factor

    def round_seed(self, round_: Round, *more: int) -> int:
        """A seed for this round, and whatever distinguishes trajectories."""
        return derive_seed(self.seed, round_.epoch, round_.number, *more)

    def state_dict(self) -> State:
        """theta_S."""
        return shared_state(self.shared)

    def load_state_dict(self, state: State) -> None:
        """Replace theta_S.

        Raises:
            MamdrError: it is of another model.
        """
        self.shared = shared_of(state, self.shared)
