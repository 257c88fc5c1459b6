"""Logistic regressions of many domains at once: Newton's method in batches, under a Gaussian prior.

Shape suffixes: G domains, M rows (padded), F weights.

With w = mean + tau * a, a ~ N(0, I), a domain's negative log-posterior is sum log(1 + exp(-y z)) + |a|^2 / 2: its
Hessian I + X' D X with X = phi * tau is never worse conditioned than the data make it, also where tau is 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

FASTEST = 25.0
"""Largest factor by which a variance changes in one update."""
HALVINGS = 12
"""Times that a step which does not lower the objective is halved, at most; after that the domain stays where it is."""


@dataclass(frozen=True)
class Prior:
    """N(mean, diag(tau^2)) of weights, both [F] for all domains alike, or [G, F] for each of some domains."""

    mean_F: Tensor
    tau_F: Tensor


@dataclass(frozen=True)
class Posterior:
    """The Laplace approximation of some domains' weights.

    Attributes:
        white_GF: mode in the prior's units, (w - mean) / tau.
        covariance_GFF: inverse Hessian in the same units.
        logits_GM: w . phi of every row.
    """

    white_GF: Tensor
    covariance_GFF: Tensor
    logits_GM: Tensor


def fit_domains(
    phi_GMF: Tensor,
    labels_GM: Tensor,
    base_GM: Tensor,
    real_GM: Tensor,
    prior: Prior,
    start_GF: Tensor,
    steps: int,
) -> Posterior:
    """Newton's method for some domains; a step that would raise a domain's objective is halved.

    Args:
        phi_GMF: rows; padding may hold anything finite.
        labels_GM: 0. or 1.
        base_GM: logits that w . phi is added to.
        real_GM: 1. for rows, 0. for padding.
        prior: of the weights.
        start_GF: where to start, in the prior's units.
        steps: of Newton's method; 0: take `start_GF` for the mode.
    """
    white_GMF = phi_GMF * prior.tau_F.unsqueeze(-2)
    fixed_GM = base_GM + (phi_GMF @ prior.mean_F.unsqueeze(-1)).squeeze(2)
    unit_FF = torch.eye(phi_GMF.shape[2], dtype=phi_GMF.dtype)

    def evaluate(at_GF: Tensor) -> tuple[Tensor, Tensor]:
        logits_GM = fixed_GM + (white_GMF @ at_GF.unsqueeze(2)).squeeze(2)
        losses_GM = real_GM * (softplus(logits_GM) - labels_GM * logits_GM)
        return logits_GM, losses_GM.sum(1) + at_GF.square().sum(1) / 2

    def factor(logits_GM: Tensor) -> Tensor:
        curvature_GM = real_GM * logits_GM.sigmoid() * (-logits_GM).sigmoid()
        return _cholesky(unit_FF + white_GMF.mT @ (white_GMF * curvature_GM.unsqueeze(2)))

    at_GF = start_GF
    logits_GM, objective_G = evaluate(at_GF)
    for _ in range(steps):
        slope_GF = (white_GMF.mT @ (real_GM * (logits_GM.sigmoid() - labels_GM)).unsqueeze(2)).squeeze(2) + at_GF
        step_GF = torch.cholesky_solve(slope_GF.unsqueeze(2), factor(logits_GM)).squeeze(2)
        share_G = torch.ones_like(objective_G)
        for halving in range(HALVINGS + 1):
            tried_GF = at_GF - share_G.unsqueeze(1) * step_GF
            tried_GM, tried_G = evaluate(tried_GF)
            raised_G = ~(tried_G <= objective_G + 1e-5 * (1 + objective_G.abs()))
            if not raised_G.any():
                break
            share_G = torch.where(raised_G, share_G / 2 if halving < HALVINGS - 1 else 0, share_G)
        at_GF, logits_GM, objective_G = tried_GF, tried_GM, tried_G
    covariance_GFF = torch.cholesky_inverse(factor(logits_GM))
    return Posterior(at_GF, covariance_GFF, logits_GM - base_GM)


def _cholesky(hessian_GFF: Tensor) -> Tensor:
    """Cholesky factors; where rounding has made a Hessian indefinite, of one with a larger diagonal.

    That takes collinear entries and a prior so wide, or a number of rows so large, that X' D X + I loses the 1.
    """
    factor_GFF: Tensor
    factor_GFF, failed_G = torch.linalg.cholesky_ex(hessian_GFF)
    relative = 4 * torch.finfo(hessian_GFF.dtype).eps
    while failed_G.any() and relative < 1:
        largest_GF = hessian_GFF.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).expand(hessian_GFF.shape[:2])
        added_GF = largest_GF * relative * (failed_G > 0).unsqueeze(1)
        again_GFF, failed_G = torch.linalg.cholesky_ex(hessian_GFF + torch.diag_embed(added_GF))
        factor_GFF = torch.where((added_GF > 0).unsqueeze(2), again_GFF, factor_GFF)
        relative *= 4
    return factor_GFF


def variance_factor(squares: Tensor, observed: Tensor) -> Tensor:
    """By what MacKay's update (1992) multiplies the variance of a prior, or of several.

    Args:
        squares: sum over observations of (mode - mean)^2, in units of the variance before.
        observed: their effective number, the sum of 1 - posterior variance / variance before.
    """
    return (squares / observed.clamp_min(1e-9)).clamp(1 / FASTEST, FASTEST)


def leverages(phi_GMF: Tensor, prior: Prior, covariance_GFF: Tensor) -> Tensor:
    """The variance of every row's logit, phi' H^-1 phi, [G, M]."""
    white_GMF = phi_GMF * prior.tau_F.unsqueeze(-2)
    return ((white_GMF @ covariance_GFF) * white_GMF).sum(2)
