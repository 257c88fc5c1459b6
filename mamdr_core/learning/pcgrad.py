"""PCGrad (Yu et al. 2020, Alg. 1; Eq. 10): each gradient loses what opposes the others', then they are summed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.engine.stacked_changes import StackedChanges
from mamdr_core.learning.combined_steps import CombinedSteps, gradients_of
from mamdr_core.learning.method import JOINT_LR, Method


class PCGrad(CombinedSteps):
    """Steps along the sum of projected gradients."""

    def direction(self, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
        """The sum of the projected gradients."""
        stacked = StackedChanges(gradients_of(self.learner, theta, visits, seeds))
        order = torch.Generator().manual_seed(seeds[0])
        return stacked.combine(projection(stacked.products(), order).sum(0))


def projection(products_MM: Tensor, order: torch.Generator) -> Tensor:
    """PCGrad's projected gradients as combinations of the given ones (Yu et al. 2020, Alg. 1; Eq. 10).

    Args:
        products_MM: inner products <g_i, g_j>.
        order: draws for each i the order of the j.

    Returns:
        [M, M]: row i holds the coefficients of g_1 ... g_M in g_i's projection.
    """
    count = len(products_MM)
    combined_MM = torch.eye(count, dtype=products_MM.dtype, device=products_MM.device)
    for own in range(count):
        for other in torch.randperm(count, generator=order).tolist():
            if other == own:
                continue
            product = combined_MM[own] @ products_MM[:, other]
            if product < 0:
                combined_MM[own, other] -= product / products_MM[other, other]
    return combined_MM


METHOD = Method(PCGrad, lr=JOINT_LR, combines_gradients=True)
