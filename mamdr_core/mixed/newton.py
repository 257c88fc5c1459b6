"""Logistic regressions of many domains under a Gaussian prior, by Newton's method in batches.

Shape suffixes: G domains, M rows (padded), F weights.

With w = mean + tau * a, a ~ N(0, I), a domain's negative log-posterior is sum log(1 + exp(-y z)) + |a|^2 / 2. Its
Hessian I + X' D X, with X = phi * tau, is well-conditioned for any tau, including 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mamdr_core.mixed.hessian import Hessian

MAX_FACTOR = 25.0
"""Largest factor by which a variance changes in one update."""
HALVINGS = 12
"""Largest number of times that a step which does not lower the objective is halved; then the step is skipped."""


@dataclass(frozen=True)
class Prior:
    """The prior N(mean, diag(tau^2)) of weights: mean and tau are [F] for all domains, or [G, F] by domain."""

    mean_F: Tensor
    tau_F: Tensor


@dataclass(frozen=True)
class Posterior:
    """The Laplace approximation of some domains' weights.

    Attributes:
        white_GF: mode in the prior's units, (w - mean) / tau.
        logits_GM: w . phi of every row.
        hessian: Hessian in the same units before the last step, which is that at the mode after convergence.
    """

    white_GF: Tensor
    logits_GM: Tensor
    hessian: Hessian


def fit_domains(
    phi_GMF: Tensor,
    labels_GM: Tensor,
    base_GM: Tensor,
    real_GM: Tensor,
    prior: Prior,
    start_GF: Tensor,
    steps: int,
) -> Posterior:
    """Newton's method for some domains; a step that would increase a domain's objective is halved.

    Args:
        phi_GMF: rows; padding may have any finite values.
        labels_GM: 0. or 1.
        base_GM: logits to which w . phi is added.
        real_GM: weights of the rows, 1. by default; 0. for padding.
        prior: prior of the weights.
        start_GF: starting point, in the prior's units.
        steps: number of Newton steps; 0: `start_GF` is the mode.
    """
    white_GMF = phi_GMF * prior.tau_F.unsqueeze(-2)
    fixed_GM = base_GM + (phi_GMF @ prior.mean_F.unsqueeze(-1)).squeeze(2)

    def evaluate(at_GF: Tensor) -> tuple[Tensor, Tensor]:
        logits_GM = fixed_GM + (white_GMF @ at_GF.unsqueeze(2)).squeeze(2)
        losses_GM = real_GM * (softplus(logits_GM) - labels_GM * logits_GM)
        return logits_GM, losses_GM.sum(1) + at_GF.square().sum(1) / 2

    def hessian_at(logits_GM: Tensor) -> Hessian:
        return Hessian(white_GMF, real_GM * logits_GM.sigmoid() * (-logits_GM).sigmoid())

    at_GF = start_GF
    logits_GM, objective_G = evaluate(at_GF)
    hessian = hessian_at(logits_GM)
    for step in range(steps):
        if step:
            hessian = hessian_at(logits_GM)
        slope_GF = (white_GMF.mT @ (real_GM * (logits_GM.sigmoid() - labels_GM)).unsqueeze(2)).squeeze(2) + at_GF
        step_GF = hessian.solve(slope_GF)
        share_G = torch.ones_like(objective_G)
        for halving in range(HALVINGS + 1):
            tried_GF = at_GF - share_G.unsqueeze(1) * step_GF
            tried_GM, tried_G = evaluate(tried_GF)
            raised_G = ~(tried_G <= objective_G + 1e-5 * (1 + objective_G.abs()))
            if not raised_G.any():
                break
            share_G = torch.where(raised_G, share_G / 2 if halving < HALVINGS - 1 else 0, share_G)
        at_GF, logits_GM, objective_G = tried_GF, tried_GM, tried_G
    return Posterior(at_GF, logits_GM - base_GM, hessian)


def variance_factor(squares: Tensor, observed: Tensor) -> Tensor:
    """The factor of the variance of one or several priors in MacKay's update (1992).

    Args:
        squares: sum over observations of (mode - mean)^2, in units of the current variance.
        observed: their effective number, the sum of 1 - posterior variance / current variance.
    """
    return (squares / observed.clamp_min(1e-9)).clamp(1 / MAX_FACTOR, MAX_FACTOR)
