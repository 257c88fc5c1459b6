"""PCGrad (Yu et al. 2020, Alg. 1; Eq. 10): the sum of gradients after projections that remove conflicts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.engine.stacked_changes import StackedChanges
from mamdr_core.learning.combined_steps import CombinedSteps, gradients_of
from mamdr_core.learning.method import JOINT_LR, Method


class PCGrad(CombinedSteps):
    """Inner steps along the sum of projected gradients."""

    def direction(self, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
        """The sum of the projected gradients."""
        stacked = StackedChanges(gradients_of(self.learner, theta, visits, seeds))
        order = torch.Generator().manual_seed(seeds[0])
        return stacked.combine(projection(stacked.products(), order).sum(0))


def projection(products_MM: Tensor, order: torch.Generator) -> Tensor:
    """PCGrad's projected gradients as combinations of the given ones (Yu et al. 2020, Alg. 1; Eq. 10).

    Args:
        products_MM: inner products <g_i, g_j> of M gradients.
        order: generator of the order of the j for each i.

    Returns:
        [M, M]: row i contains the coefficients of g_1 ... g_M in the projection of g_i.
    """
    count = len(products_MM)
    coefficients_MM = torch.eye(count, dtype=products_MM.dtype, device=products_MM.device)
    for i in range(count):
        for j in torch.randperm(count, generator=order).tolist():
            if j == i:
                continue
            product = coefficients_MM[i] @ products_MM[:, j]
            if product < 0:
                coefficients_MM[i, j] -= product / products_MM[j, j]
    return coefficients_MM


METHOD = Method(PCGrad, lr=JOINT_LR, combines_gradients=True)
