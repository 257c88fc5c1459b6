"""MAML (Finn et al. 2017, Alg. 1), second order: the loss of query rows after a step on support rows."""

from collections.abc import Sequence

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.learning.combined_steps import CombinedSteps, hessian_product, mean_of, moved
from mamdr_core.learning.method import JOINT_LR, Method


class MAML(CombinedSteps):
    """Inner steps along the gradient of the query rows' loss after a virtual step on the support rows."""

    def direction(self, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
        """The mean over domains of (I - alpha H) g', with g' the query gradient after the virtual step."""
        learner, alpha = self.learner, self.learner.settings.meta_lr
        gradients = []
        for visit, seed in zip(visits, seeds, strict=True):
            support, query = _halves(visit)
            adapted = moved(theta, learner.engine.gradient(theta, support, seed), -alpha)
            of_query = learner.engine.gradient(adapted, query, seed)
            gradients.append(of_query.add(hessian_product(learner, theta, [support], [seed], of_query), -alpha))
        return mean_of(gradients)


def _halves(visit: Visit) -> tuple[Visit, Visit]:
    """Support and query rows of a visit; a single row is used for both."""
    half = len(visit.rows) // 2
    if not half:
        return visit, visit
    return Visit(visit.columns, visit.rows[:half]), Visit(visit.columns, visit.rows[half:])


METHOD = Method(MAML, lr=JOINT_LR, combines_gradients=True)
