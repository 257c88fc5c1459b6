"""The inner loop of theta_S: one trajectory over visits, and the optimizer's moments between rounds."""

from collections.abc import Sequence

from torch import Tensor

from mamdr_core.config.engine import OuterSettings
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.inner_step import inner_step
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.engine.state_memory import IN_MEMORY, StateMemory
from mamdr_core.engine.step_options import RowRule
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.runtime.stateful import State

TAKE_END = OuterSettings(optimizer="sgd", beta=1.0)
"""The outer update that replaces theta by theta~, or by the mean of theta~ over ranks."""


class InnerLoop:
    """Inner loops of theta_S on one rank.

    Args:
        learner: the learner with theta_S and the settings of its inner loop.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._adam: InnerState | None = None

    def descend(self, visits: Sequence[Visit], round_: Round) -> Change:
        """theta~ - theta after inner steps on one visit after another (Alg. 1, lines 2 and 4 to 6)."""
        learner = self._learner
        learner.prefetch(visits)
        return learner.engine.descend(
            Theta(learner.shared),
            visits,
            learner.alpha(round_),
            learner.settings.inner.optimizer,
            self.carried_moments(),
            seed=learner.round_seed(round_, learner.rank),
        )

    def carried_moments(self) -> InnerState | None:
        """The moments of earlier rounds, updated in place; None if every inner loop starts with fresh ones."""
        inner = self._learner.settings.inner
        if not self._has_moments or inner.state != "carried":
            return None
        self._adam = self._adam or self._fresh_moments(self._learner.state_memory)
        return self._adam

    def moments(self) -> InnerState | None:
        """The moments for the next inner loop, carried or fresh; None if the inner optimizer has none."""
        if not self._has_moments:
            return None
        return self.carried_moments() or self._fresh_moments(IN_MEMORY)

    def step(self, moved: Change, gradient: Change, state: InnerState | None, round_: Round) -> None:
        """Make one inner step along a gradient.

        Args:
            moved: the trajectory's theta~ - theta, updated in place.
            gradient: the gradient.
            state: from `moments`, updated in place.
            round_: the round, which determines the learning rate.
        """
        learner, optimizer = self._learner, self._learner.settings.inner.optimizer
        alpha, options = learner.alpha(round_), learner.engine.options
        inner_step(learner.shared, moved, gradient, state, alpha, optimizer, options, self._rules())

    @property
    def _has_moments(self) -> bool:
        inner = self._learner.settings.inner
        return not {inner.optimizer, inner.sparse_optimizer}.isdisjoint(("adam", "adagrad"))

    def _rules(self) -> dict[str, RowRule]:
        engine, optimizer = self._learner.engine, self._learner.settings.inner.optimizer
        return {table.name: engine.options.rule(table, optimizer) for table in engine.trained_tables}

    def _fresh_moments(self, memory: StateMemory) -> InnerState:
        return InnerState.zeros_like(self._learner.shared, self._rules(), memory)

    def state_dict(self) -> State:
        """The carried moments, which differ between ranks."""
        return State() if self._adam is None else State(counters={"steps": self._adam.step}, own=_named(self._adam))

    def load_state_dict(self, state: State) -> None:
        """Load the moments of a rank."""
        if state.is_empty():
            return
        self._adam = self._fresh_moments(self._learner.state_memory)
        self._adam.step = state.counter("steps")
        for name, values in _named(self._adam).items():
            values.copy_(state.tensor(state.own, name, values))


def _named(state: InnerState) -> dict[str, Tensor]:
    """The tensors of all moments by name."""
    moments = {"dense": state.dense, **{f"table.{name}": table for name, table in state.tables.items()}}
    return {f"{key}.{name}": values for name, own in moments.items() for key, values in own.named().items()}
