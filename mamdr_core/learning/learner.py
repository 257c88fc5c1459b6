"""The interface of learning methods on one rank: parameters, rows, engine, settings and collectives."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.config.learning import LearningSettings
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.parameter_state import shared_of, shared_state
from mamdr_core.engine.parameters import Change, Rows, Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.state_memory import IN_MEMORY, StateMemory
from mamdr_core.runtime.stateful import State


@dataclass(frozen=True)
class Round:
    """This rank's part of one round.

    Attributes:
        epoch: number of the epoch, from 0.
        number: number of the round within the epoch, from 0.
        slices: for each of the rank's domains, in the round's random order, positions of its rows in `Learner.train`.
        shuffled: positions of mixed rows of all the rank's domains, as many as in `slices`; None unless `Method.mixes`.
        balanced: by domain, the visits of theta_S after ranks have lent rows to others; None: `slices`.
        inner_factor, outer_factor: factors of theta_S's learning rates alpha and beta in this round.
    """

    epoch: int
    number: int
    slices: dict[int, Tensor]
    shuffled: Tensor | None = None
    balanced: dict[int, Visit] | None = None
    inner_factor: float = 1.0
    outer_factor: float = 1.0

    def visits(self, train: Columns) -> dict[int, Visit]:
        """The visits of theta_S by domain, in the round's random order: `balanced`, or the rank's slices.

        Args:
            train: `Learner.train`.
        """
        if self.balanced is not None:
            return self.balanced
        return {domain: Visit(train, rows) for domain, rows in self.slices.items()}

    def mixed(self, train: Columns) -> Visit:
        """A visit to the round's mixed rows of all the rank's domains.

        Args:
            train: `Learner.train`.

        Raises:
            ValueError: the method does not declare that it mixes rows, which is a bug.
        """
        if self.shuffled is None:
            raise ValueError("this round has no mixed rows: the method must declare mixes=True")
        return Visit(train, self.shuffled)


Draw = tuple[int, int, int]
"""Consecutive rows of a domain's sample: the domain, the first row within the sample, and the number of rows."""


class Supports(Protocol):
    """A sample of every domain's rows, from which DR draws; `mamdr_core.parallel.supports` implements it."""

    counts_n: NDArray[np.int64]
    """Number of rows of each domain's sample, [n], equal on all ranks."""
    occupied: NDArray[np.int64]
    """Domains with rows, ascending, equal on all ranks."""

    def fetch(self, draws: Sequence[Draw]) -> tuple[Columns, list[Tensor]]:
        """Columns, and for each draw the positions of its rows in them; a collective call of all ranks."""


@dataclass
class Learner:
    """The parameters, rows and collectives of a run on one rank, for any learning method; its state is theta_S.

    Attributes:
        engine: computes gradients and inner loops.
        train: this rank's training rows.
        supports: the sample from which DR draws support rows.
        shared: theta_S, equal on all ranks after every round.
        specific: theta_i by domain index, of this rank's domains.
        average: weighted mean of a change over ranks, from the change and its weight.
        settings: settings of the method.
        seed: seed of the run.
        all_reduce_max: the largest over ranks of a number.
        average_gradient: the gradient of the mean loss over the rows of all ranks, from this rank's gradient and the
            total weight of its rows.
        gather: the numbers of all ranks, in rank order.
        rank: number of this rank, for the seeds of dropout.
        state_memory: where moments, momenta and the best theta_S are stored.
        rows_descended: number of rows in this rank's inner steps so far.
    """

    engine: EagerEngine
    train: Columns
    supports: Supports | None
    shared: Shared
    specific: SpecificStore
    average: Callable[[Change, float], Change]
    settings: LearningSettings
    seed: int
    all_reduce_max: Callable[[int], int] = int
    average_gradient: Callable[[Change, float], Change] = lambda gradient, rows: gradient
    gather: Callable[[int], list[int]] = lambda number: [number]
    rank: int = 0
    state_memory: StateMemory = IN_MEMORY
    rows_descended: int = 0

    def no_change(self) -> Change:
        """A zero change of theta_S with all trained tables, for ranks without rows, which average too."""
        nothing = torch.zeros(0, dtype=torch.long, device=self.shared.dense.device)
        rows = {
            table.name: Rows(nothing, self.shared.dense.new_zeros(0, table.width))
            for table in self.engine.trained_tables
        }
        return Change(torch.zeros_like(self.shared.dense), rows)

    def prefetch(self, visits: Iterable[Visit]) -> None:
        """Prefetch the embedding rows of theta_S that `visits` read; see `Shared.prefetch`."""
        self.shared.prefetch(visits)

    def count(self, visits: Sequence[Visit]) -> int:
        """Add the rows of some visits to `rows_descended`, and return their number."""
        rows = sum(len(visit.rows) for visit in visits)
        self.rows_descended += rows
        return rows

    def alpha(self, round_: Round) -> float:
        """Learning rate of theta_S's inner steps in a round."""
        return self.settings.alpha * round_.inner_factor

    def round_seed(self, round_: Round, *more: int) -> int:
        """A seed derived from the run's seed, the round, and further numbers that identify a trajectory."""
        return derive_seed(self.seed, round_.epoch, round_.number, *more)

    def state_dict(self) -> State:
        """The parameters theta_S."""
        return shared_state(self.shared)

    def load_state_dict(self, state: State) -> None:
        """Load theta_S."""
        self.shared = shared_of(state, self.shared)
