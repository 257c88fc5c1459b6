"""Joint training: mini-batches with mixed rows of all domains (appendix A.3)."""

from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.learning.inner_loop import TAKE_END, InnerLoop
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.method import JOINT_LR, Method
from mamdr_core.runtime.stateful import State


class JointTraining:
    """One trajectory of theta_S over the mixed rows of a round.

    Args:
        learner: the learner with theta_S.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._inner = InnerLoop(learner)

    def __call__(self, round_: Round) -> None:
        """Descend on the round's mixed rows."""
        learner = self._learner
        visits = [round_.mixed(learner.train)]
        change = self._inner.descend(visits, round_)
        OuterOptimizer(TAKE_END).step(learner.shared, learner.average(change, float(learner.count(visits))))

    def state_dict(self) -> State:
        """State of the inner optimizer."""
        return self._inner.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Load the state of the inner optimizer."""
        self._inner.load_state_dict(state)


METHOD = Method(JointTraining, lr=JOINT_LR, mixes=True)
