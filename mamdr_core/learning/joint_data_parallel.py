"""Joint training by synchronous data parallelism: every step averages the gradients of all ranks."""

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.engine.parameters import Theta
from mamdr_core.learning.inner_loop import TAKE_END
from mamdr_core.learning.joint import JointTraining
from mamdr_core.learning.learner import Round
from mamdr_core.learning.method import JOINT_LR, Method


class JointDataParallel(JointTraining):
    """Joint training in which all ranks compute every step together, with the steps of a single process.

    The rows of all ranks are distributed in turn over steps of at most `batch_size` rows, so a rank's part of every
    step is proportional to its rows. Every rank makes the same inner step along the gradient of the step's mean loss,
    so theta_S and Adam's moments are equal on all ranks after every step.

    Args:
        learner: the learner with theta_S, with whole embedding tables.
    """

    def __call__(self, round_: Round) -> None:
        """Descend on the round's mixed rows."""
        learner, rows = self._learner, round_.mixed(self._learner.train).rows
        counts_W = learner.gather(len(rows))
        steps = -(-sum(counts_W) // learner.engine.batch_size)
        before = sum(counts_W[: learner.rank])
        state, outer = self._inner.moments(), OuterOptimizer(TAKE_END)
        for step in range(steps):
            visit = Visit(learner.train, rows[(step - before) % steps :: steps])
            gradient = learner.no_change()  # for a rank without rows in the step
            if len(visit.rows):
                seed = learner.round_seed(round_, learner.rank, step)
                gradient = learner.engine.gradient(Theta(learner.shared), visit, seed)
            moved = learner.no_change()
            learner.count([visit])
            mean = learner.average_gradient(gradient, visit.total_weight)
            self._inner.step(moved, mean, state, round_)
            outer.step(learner.shared, moved)


METHOD = Method(JointDataParallel, lr=JOINT_LR, combines_gradients=True, mixes=True)
