"""MLDG (Li et al. 2018, Alg. 1), second order: a step on some domains should also reduce the loss of the others."""

from collections.abc import Sequence

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.learning.combined_steps import CombinedSteps, gradients_of, hessian_product, mean_of, moved
from mamdr_core.learning.method import JOINT_LR, Method


class MLDG(CombinedSteps):
    """Inner steps along the gradient of F(theta) + G(theta - alpha F'(theta)).

    F is the mean loss of half of the domains, G that of the others.
    """

    def direction(self, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
        """F' + (I - alpha H_F) G', with G' after the virtual step; F' if there is only one domain."""
        learner, alpha = self.learner, self.learner.settings.meta_lr
        half = -(-len(visits) // 2)
        meta_train, meta_test = visits[:half], visits[half:]
        of_train = mean_of(gradients_of(learner, theta, meta_train, seeds[:half]))
        if not meta_test:
            return of_train
        of_test = mean_of(gradients_of(learner, moved(theta, of_train, -alpha), meta_test, seeds[half:]))
        curvature = hessian_product(learner, theta, meta_train, seeds[:half], of_test)
        return of_train.add(of_test, 1.0).add(curvature, -alpha)


METHOD = Method(MLDG, lr=JOINT_LR, combines_gradients=True)
