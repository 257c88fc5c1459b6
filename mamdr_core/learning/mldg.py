"""MLDG (Li et al. 2018, Alg. 1), second order: a step on some domains must help the others too."""

from collections.abc import Sequence

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.learning.combined_steps import CombinedSteps, gradients_of, hessian_product, mean_of, moved
from mamdr_core.learning.method import JOINT_LR, Method


class MLDG(CombinedSteps):
    """Steps along the gradient of F(theta) + G(theta - alpha F'(theta)), F over half of the domains, G the others."""

    def direction(self, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
        """F' + (I - alpha H_F) G' after the virtual step; F' alone if there is only one domain."""
        learner, alpha = self.learner, self.learner.settings.meta_lr
        half = -(-len(visits) // 2)
        known, unseen = visits[:half], visits[half:]
        to_known = mean_of(gradients_of(learner, theta, known, seeds[:half]))
        if not unseen:
            return to_known
        to_unseen = mean_of(gradients_of(learner, moved(theta, to_known, -alpha), unseen, seeds[half:]))
        bent = hessian_product(learner, theta, known, seeds[:half], to_unseen)
        return to_known.add(to_unseen, 1.0).add(bent, -alpha)


METHOD = Method(MLDG, lr=JOINT_LR, combines_gradients=True)
