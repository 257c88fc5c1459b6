"""What a learning method works with on one rank: parameters, rows, engine, and the mean over ranks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.optimizers import AdamMoments, AdamState, OuterOptimizer, adam_change
from mamdr_core.engine.parameters import Change, Rows, Scope, Shared
from mamdr_core.engine.settings import InnerSettings
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.learning.settings import DRSettings


@dataclass(frozen=True)
class Round:
    """The part of one round that this rank does.

    Attributes:
        epoch: from 0.
        number: round within the epoch, from 0.
        slices: by domain, in the round's random order: positions of its rows of this round in `Learner.train`.
        mixed: positions of as many rows of all own domains, shuffled together (joint training).
    """

    epoch: int
    number: int
    slices: dict[int, Tensor]
    mixed: Tensor


class Uncertainty:
    """The weighted loss's s_i = log sigma_i^2 by domain, [n], moved by Adam where a step meets the domain.

    Args:
        values_n: at the start.

    Attributes:
        values_n: now.
        moments: Adam's.
        counts_n: steps of each domain so far.
    """

    def __init__(self, values_n: Tensor) -> None:
        self.values_n = values_n
        self.moments = AdamMoments.zeros_like(values_n)
        self.counts_n = torch.zeros(len(values_n), dtype=torch.long)

    def step(self, domain: int, gradient: float, lr: float) -> None:
        """Move the s of a domain along its gradient."""
        self.counts_n[domain] += 1
        own = slice(domain, domain + 1)
        first, second = self.moments.first[own], self.moments.second[own]
        along = torch.full_like(first, gradient)
        self.values_n[own] -= adam_change(along, first, second, int(self.counts_n[domain]), lr)


@dataclass
class Learner:
    """State and tools of a run on one rank.

    Attributes:
        engine: the three primitives.
        train: this rank's training rows.
        supports: a sample of every domain's rows, the same on all ranks, that DR draws from.
        shared: theta_S, the same on all ranks after every round.
        specific: theta_i by domain index, of this rank's domains.
        average: mean over ranks of changes, weighted by a number.
        most: the largest over ranks of a number.
        outer: the outer optimizer.
        inner: settings of theta_S's inner loop.
        dr: settings of DR.
        seed: of the run.
        rank: this rank; decides dropout.
        adam: Adam's moments of theta_S on this rank, where `inner.state` is carried.
        meta_lr: learning rate of the virtual step of MAML and MLDG.
        uncertainty: the weighted loss's log variances, of this rank's domains.
        pending: by domain, rows dealt since DR's last pass.
        rounds_since_dr: rounds since DR's last pass.
        scopes: by domain, what its theta_i covers.
        rows_descended: rows that inner loops of this rank have descended on.
    """

    engine: EagerEngine
    train: Columns
    supports: Columns | None
    shared: Shared
    specific: SpecificStore
    average: Callable[[Change, float], Change]
    outer: OuterOptimizer
    inner: InnerSettings
    dr: DRSettings
    seed: int
    most: Callable[[int], int] = int
    rank: int = 0
    adam: AdamState | None = None
    meta_lr: float = 0.01
    uncertainty: Uncertainty = field(init=False)
    pending: dict[int, list[Tensor]] = field(default_factory=dict)
    rounds_since_dr: int = 0
    scopes: dict[int, Scope] = field(default_factory=dict)
    rows_descended: int = 0

    def __post_init__(self) -> None:
        """Begin with equal weights."""
        self.uncertainty = Uncertainty(torch.zeros(len(self.train.offsets) - 1).to(self.shared.dense))

    def carried_state(self) -> AdamState | None:
        """Adam's moments for theta_S's next inner loop; None: fresh ones."""
        if self.inner.optimizer != "adam" or self.inner.state != "carried":
            return None
        self.adam = self.adam or AdamState.zeros_like(self.shared)
        return self.adam

    @property
    def alpha(self) -> float:
        """Learning rate of theta_S's inner steps."""
        assert self.inner.lr is not None, "mamdr_core.learning.methods.settle names the rate"
        return self.inner.lr

    def no_change(self) -> Change:
        """A change of theta_S that moves nothing, with every table, so that ranks without rows average along."""
        nothing = torch.zeros(0, dtype=torch.long, device=self.shared.dense.device)
        rows = {
            name: Rows(nothing, self.shared.dense.new_zeros(0, table.shape[1]))
            for name, table in self.shared.tables.items()
        }
        return Change(torch.zeros_like(self.shared.dense), rows)

    def fresh_state(self) -> AdamState | None:
        """Adam's moments before the first step; None where the inner optimizer is another."""
        return AdamState.zeros_like(self.shared) if self.inner.optimizer == "adam" else None

    def reach(self, visits: Iterable[Visit]) -> None:
        """Bring theta_S's embedding rows that `visits` meet within reach; see `Shared.reach`."""
        self.shared.reach(visits)

    def count(self, visits: Sequence[Visit]) -> int:
        """Rows of some visits; also counts them as descended on."""
        rows = sum(len(visit.rows) for visit in visits)
        self.rows_descended += rows
        return rows

    def round_seed(self, round_: Round, *more: int) -> int:
        """A seed for this round, and whatever tells trajectories apart."""
        return derive_seed(self.seed, round_.epoch, round_.number, *more)
