"""The inner loop of theta_S: one trajectory over visits, with Adam's moments carried from round to round."""

from collections.abc import Sequence

from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import AdamMoments, AdamState
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.engine.settings import OuterSettings
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.stateful import State

TAKE_END = OuterSettings(optimizer="sgd", beta=1.0)
"""The outer update that makes theta~ the new theta: on one rank rounds leave no trace, on several ranks the ends of
their trajectories are averaged."""


class InnerLoop:
    """Inner loops of theta_S on one rank.

    Args:
        learner: has theta_S and the settings of its inner loop.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._adam: AdamState | None = None

    def descend(self, visits: Sequence[Visit], round_: Round) -> Change:
        """theta~ - theta after inner steps on visit after visit (Alg. 1, lines 2 and 4 to 6)."""
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

    def carried_moments(self) -> AdamState | None:
        """Adam's moments from the rounds before, advanced in place; None if every inner loop starts with fresh ones."""
        inner = self._learner.settings.inner
        if inner.optimizer != "adam" or inner.state != "carried":
            return None
        self._adam = self._adam or AdamState.zeros_like(self._learner.shared)
        return self._adam

    def moments(self) -> AdamState | None:
        """Adam's moments for the next inner loop, carried or fresh; None if the inner optimizer has none."""
        if self._learner.settings.inner.optimizer != "adam":
            return None
        return self.carried_moments() or AdamState.zeros_like(self._learner.shared)

    def state_dict(self) -> State:
        """Adam's moments, which are this rank's own."""
        if self._adam is None:
            return State()
        own = {"dense": self._adam.dense, **{f"table.{name}": table for name, table in self._adam.tables.items()}}
        first = {f"first.{name}": moments.first for name, moments in own.items()}
        second = {f"second.{name}": moments.second for name, moments in own.items()}
        return State(counters={"steps": self._adam.step}, own=first | second)

    def load_state_dict(self, state: State) -> None:
        """Take over the moments of one of the ranks that were.

        Raises:
            MamdrError: they are of another model.
        """
        if state.is_empty():
            return

        def moments(name: str, like: Tensor) -> AdamMoments:
            first, second = (state.tensor(state.own, f"{of}.{name}", like) for of in ("first", "second"))
            return AdamMoments(first, second)

        shared = self._learner.shared
        whole = {name: table for name, table in shared.tables.items() if isinstance(table, Tensor)}
        tables = {name: moments(f"table.{name}", table) for name, table in whole.items()}
        self._adam = AdamState(moments("dense", shared.dense), tables, state.counter("steps"))
