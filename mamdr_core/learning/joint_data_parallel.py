"""Joint training by synchronous data parallelism: every step averages the gradients of all ranks."""

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.engine.parameters import Theta
from mamdr_core.learning.inner_loop import TAKE_END
from mamdr_core.learning.joint import JointTraining
from mamdr_core.learning.learner import Round
from mamdr_core.learning.method import JOINT_LR, Method


class JointDataParallel(JointTraining):
    """The steps of one process on mini-batches of all domains mixed, each computed by all ranks together.

    The rows of all ranks are dealt in turn to steps of at most `batch_size` rows, so a rank's part of every step is in
    proportion to its rows. Every rank then makes the same inner step along the gradient of the mean loss over the whole
    step: theta_S and Adam's moments are equal on all ranks after every step.

    Args:
        learner: has theta_S, with whole embedding tables.
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
            gradient = learner.no_change()  # of a rank without rows in the step
            if len(visit.rows):
                seed = learner.round_seed(round_, learner.rank, step)
                gradient = learner.engine.gradient(Theta(learner.shared), visit, seed)
            moved = learner.no_change()
            learner.count([visit])
            mean = learner.average_gradient(gradient, visit.total_weight)
            self._inner.step(moved, mean, state, round_)
            outer.step(learner.shared, moved)


METHOD = Method(JointDataParallel, lr=JOINT_LR, combines_gradients=True, mixes=True)
