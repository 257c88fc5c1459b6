"""The Hessians I + X' D X of many domains' logistic regressions, each factored on its smaller side.

Shape suffixes: G domains, M rows (padded), F weights, R the smaller of M and F.

With S = D^(1/2) X, the matrix inversion lemma (I + S'S)^-1 = I - S' (I + S S')^-1 S replaces F x F matrices by M x M
matrices for domains with fewer rows than weights.
"""

import torch
from torch import Tensor


class Hessian:
    """I + X' D X of some domains.

    Args:
        white_GMF: X, rows in the prior's units.
        curvature_GM: the diagonal of D, p (1 - p) of every row times its weight; 0 for padding.
    """

    def __init__(self, white_GMF: Tensor, curvature_GM: Tensor) -> None:
        self._white_GMF = white_GMF
        self._root_GMF = white_GMF * curvature_GM.sqrt().unsqueeze(2)
        self._is_by_rows = white_GMF.shape[1] < white_GMF.shape[2]
        root_GMF = self._root_GMF
        gram = root_GMF @ root_GMF.mT if self._is_by_rows else root_GMF.mT @ root_GMF
        self._factor = _cholesky(gram + torch.eye(gram.shape[1], dtype=gram.dtype))

    def solve(self, slope_GF: Tensor) -> Tensor:
        """Products of the inverse and one vector for each domain, [G, F]."""
        solved_GF: Tensor
        if not self._is_by_rows:
            solved_GF = torch.cholesky_solve(slope_GF.unsqueeze(2), self._factor).squeeze(2)
            return solved_GF
        inner_GM1 = torch.cholesky_solve(self._root_GMF @ slope_GF.unsqueeze(2), self._factor)
        return slope_GF - (self._root_GMF.mT @ inner_GM1).squeeze(2)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Summaries of the inverse, which is the posterior covariance.

        Returns:
            Its diagonal [G, F]; and the sum over domains of I minus the inverse, float64 [F, F], which measures the
            degree to which the rows determine the weights.
        """
        weights = self._root_GMF.shape[2]
        half_GRF = self._half(self._root_GMF if self._is_by_rows else torch.eye(weights))
        product_GF, rows_RF = half_GRF.square().sum(1), half_GRF.flatten(0, 1)
        product_FF = (rows_RF.T @ rows_RF).double()
        if self._is_by_rows:
            return (1 - product_GF).clamp_min(0), product_FF
        return product_GF, len(product_GF) * torch.eye(weights, dtype=torch.float64) - product_FF

    def leverages(self) -> Tensor:
        """Posterior variance of every row's logit, x' H^-1 x, [G, M]."""
        white_GFM = self._white_GMF.mT
        if not self._is_by_rows:
            return self._half(white_GFM).square().sum(1)
        explained_GM = self._half(self._root_GMF @ white_GFM).square().sum(1)
        return (self._white_GMF.square().sum(2) - explained_GM).clamp_min(0)

    def _half(self, right: Tensor) -> Tensor:
        """L^-1 B, where L L' is the factored matrix: (L^-1 B)' (L^-1 B) is B' (L L')^-1 B."""
        half: Tensor = torch.linalg.solve_triangular(self._factor, right, upper=False)
        return half


def _cholesky(matrices: Tensor) -> Tensor:
    """Cholesky factors; the diagonal of a matrix that is indefinite because of rounding is increased.

    This happens with collinear entries if X' D X is so large, due to a wide prior or many rows, that adding I has no
    effect.
    """
    factors: Tensor
    factors, failed_G = torch.linalg.cholesky_ex(matrices)
    relative = 4 * torch.finfo(matrices.dtype).eps
    while failed_G.any() and relative < 1:
        largest = matrices.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).expand(matrices.shape[:2])
        added = largest * relative * (failed_G > 0).unsqueeze(1)
        again, failed_G = torch.linalg.cholesky_ex(matrices + torch.diag_embed(added))
        factors = torch.where((added > 0).unsqueeze(2), again, factors)
        relative *= 4
    return factors
