"""Early stop on the mean validation AUC over domains, and the best parameters so far."""

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from mamdr_core.engine.parameter_state import shared_of, shared_state
from mamdr_core.engine.parameters import Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.state_memory import StateMemory
from mamdr_core.runtime.stateful import State

LEARNT_AUC = 0.51
"""A network with a lower or equal best AUC has not begun to learn: fresh parameters reach about .50 by chance."""


class Parameters(Protocol):
    """The parameters of a learner."""

    shared: Shared
    specific: SpecificStore
    state_memory: StateMemory


@dataclass
class EarlyStop:
    """Keeps the best parameters; training stops after `patience` validations in a row without a better AUC.

    Validations count only once the best AUC exceeds `LEARNT_AUC`, so that a slow start does not end training. If no
    domain has an AUC, every validation counts as the best, so that the last parameters are kept. The store of theta_i
    keeps and checkpoints its own best values.

    Attributes:
        moves_shared: whether theta_S is changed in place between validations, so that the best needs a copy.
        best: best mean AUC so far; NaN if there is none.
        waited: number of validations since then that count.
        shared: best theta_S; None before the first validation.
    """

    patience: int
    parameters: Parameters = field(repr=False)
    moves_shared: bool = True
    best: float = float("nan")
    best_round: int = 0
    waited: int = 0
    shared: Shared | None = field(default=None, repr=False)

    def record(self, auc: float, round_number: int) -> bool:
        """Record a validation of the parameters; returns whether training should stop."""
        if auc > self.best or self.shared is None or auc != auc:
            self.best, self.best_round, self.waited = auc, round_number, 0
            self.shared = None  # releases the previous best before copying the new one
            now = self.parameters.shared
            self.shared = now.copy(self.parameters.state_memory) if self.moves_shared else now
            self.parameters.specific.keep()
            return False
        if self.best > LEARNT_AUC:
            self.waited += 1
        return self.waited >= self.patience

    def restore_best(self) -> None:
        """Replace the parameters by the best ones."""
        assert self.shared is not None, "no validation was recorded"
        if self.parameters.state_memory.mapped and self.shared is not self.parameters.shared:
            self.parameters.shared.assign(self.shared)  # theta_S stays in memory
        else:
            self.parameters.shared = self.shared
        self.parameters.specific.restore()

    def state_dict(self) -> State:
        """The best AUC with its theta_S, and the counters."""
        counters = {"best_round": self.best_round, "waited": self.waited}
        if self.shared is None:
            return State(counters=counters)
        kept = State.join({"shared": shared_state(self.shared)})
        best = torch.tensor(self.best, dtype=torch.float64)
        constant = frozenset((*kept.same, *kept.rows))
        return replace(kept, counters=counters, same={"best": best, **kept.same}, constant=constant)

    def load_state_dict(self, state: State) -> None:
        """Restore a state."""
        self.best_round, self.waited = state.counter("best_round"), state.counter("waited")
        kept = state.part("shared")
        if not kept.is_empty():
            self.best = float(state.tensor(state.same, "best", torch.tensor(0.0, dtype=torch.float64)))
            self.shared = shared_of(kept, self.parameters.shared)
