"""Domain Negotiation: Algorithm 1, the update of theta_S in MAMDR."""

from mamdr_core.config.engine import OuterSettings
from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.learning.inner_loop import InnerLoop
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.method import Method
from mamdr_core.runtime.stateful import State


class DomainNegotiation:
    """Algorithm 1 (Eq. 3 and 4). A call is one iteration of its outer loop, lines 2 to 7.

    Each rank computes lines 2 to 6 for its part of the round. Line 7 uses the mean over ranks of theta~ - theta,
    weighted by rows.

    Args:
        learner: the learner with theta_S.
        outer: settings of the outer update; None: the learner's.
    """

    def __init__(self, learner: Learner, outer: OuterSettings | None = None) -> None:
        self._learner = learner
        self._inner = InnerLoop(learner)
        self._outer = OuterOptimizer(outer or learner.settings.outer, learner.state_memory)

    def __call__(self, round_: Round) -> None:
        """Visit the domains of a round one after another, then move theta_S towards theta~."""
        learner = self._learner
        visits = list(round_.visits(learner.train).values())  # line 3: they are in random order
        change = self._inner.descend(visits, round_)  # lines 2 and 4-6: theta~ - theta
        rows = learner.count(visits)
        self._outer.step(learner.shared, learner.average(change, float(rows)), round_.outer_factor)  # line 7

    def state_dict(self) -> State:
        """State of the inner and the outer optimizer."""
        return State.join({"inner": self._inner.state_dict(), "outer": self._outer.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Load the state of both optimizers."""
        self._inner.load_state_dict(state.part("inner"))
        self._outer.load_state_dict(state.part("outer"), self._learner.shared)


METHOD = Method(DomainNegotiation, has_outer=True)
