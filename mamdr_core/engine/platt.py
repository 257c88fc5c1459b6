"""Platt scaling by domain (Platt 1999): calibrated logits a_i z + b_i, fitted to held-out rows, with a shared prior.

Each (a_i, b_i) has a normal prior around the regression over the rows of all domains. The variances of the prior are
learned from all domains (empirical Bayes, MacKay 1992), so domains of few rows stay close to the regression.

Shape suffixes: N rows, n domains, G groups of rows, K = n + 1: unknown domains, then the domains.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mamdr_core.engine.isotonic import Curve, fit_curve, sums_by
from mamdr_core.engine.threads import one_thread

MAX_FACTOR = 25.0
"""Maximum factor by which one update multiplies or divides a variance of the prior."""
LEAST_TAU, START_TAU, MOST_TAU = 1e-3, 0.3, 3.0
"""Standard deviation of the prior: minimum, initial value and maximum."""
PRIOR_UPDATES, STEPS, HALVINGS = 10, 30, 12
"""Number of updates of the prior; maximum numbers of Newton steps, and of halvings of a step."""
LEAST_SLOPE = 0.05
"""Minimum slope of the regression, and of a domain over that of the regression; positive slopes preserve order."""
_WIDE = 1e-4  # precision of the prior of the regression
_FIXED = 1e12  # precision of a slope that is held constant


@dataclass(frozen=True)
class Calibration:
    """An increasing curve of logits for all domains, followed by a positive slope and a shift per domain.

    Attributes:
        slope_K, shift_K: float64 [n + 1]; domain i has row i + 1, and row 0 is for unknown domains.
        curve: the curve; None: the identity.
    """

    slope_K: Tensor
    shift_K: Tensor
    curve: Curve | None = None

    @classmethod
    def identity(cls, domains: int) -> "Calibration":
        """A calibration that does not change logits."""
        ones_K = torch.ones(domains + 1, dtype=torch.float64)
        return cls(ones_K, torch.zeros_like(ones_K))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Calibration":
        """The inverse of `tensors`."""
        curve = Curve(tensors["knots"], tensors["values"]) if "knots" in tensors else None
        return cls(tensors["slope"], tensors["shift"], curve)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to save."""
        curve = {"knots": self.curve.knots_J, "values": self.curve.values_J} if self.curve else {}
        return {"slope": self.slope_K, "shift": self.shift_K, **curve}

    def with_negatives_of(self, rate: float) -> "Calibration":
        """Correct for a log with this share of the negatives: p / (p + (1 - p) / rate), a shift of the logit.

        He et al. 2014, section 6.3.
        """
        return replace(self, shift_K=self.shift_K + math.log(rate))

    def apply(self, logits_N: Tensor, domain_N: Tensor) -> Tensor:
        """Calibrated logits, float64 [N], on the device of the logits.

        Args:
            logits_N: logits of the model.
            domain_N: domain index of each row; unknown domains are negative or at least n.
        """
        place_N = self._places(domain_N)
        slope_N, shift_N = (each[place_N].to(logits_N.device) for each in (self.slope_K, self.shift_K))
        curved_N = self.curve.apply(logits_N) if self.curve else logits_N.double()
        return curved_N * slope_N + shift_N

    def slopes(self, calibrated_N: Tensor, domain_N: Tensor) -> Tensor:
        """Derivatives of the calibrated logits with respect to those of the model, float64 [N], on the CPU.

        Args:
            calibrated_N: results of `apply`.
            domain_N: see `apply`.
        """
        place_N = self._places(domain_N)
        slope_N = self.slope_K[place_N]
        if not self.curve:
            return slope_N
        return slope_N * self.curve.slope_at((calibrated_N.double().cpu() - self.shift_K[place_N]) / slope_N)

    def _places(self, domain_N: Tensor) -> Tensor:
        """Positions in `slope_K` of domains, int64 [N], on the CPU."""
        place_N = domain_N.long().cpu() + 1
        return torch.where(place_N < len(self.slope_K), place_N, 0).clamp_min_(0)


@dataclass(frozen=True)
class CalibrationRows:
    """Rows of a rank for fitting a calibration, on the CPU.

    Attributes:
        logits_N, labels_N: float64.
        weights_N: sample weights, float64.
        domain_N: domain index of each row, int64.
        domains: number of domains n.
    """

    logits_N: Tensor
    labels_N: Tensor
    weights_N: Tensor
    domain_N: Tensor
    domains: int


def fit_isotonic(
    rows: CalibrationRows, all_reduce: Callable[[Tensor], Tensor], prior: Calibration | None = None
) -> Calibration:
    """Fit a curve to the rows of all domains, and Platt scaling by domain to its values.

    Args:
        rows, all_reduce, prior: see `fit_platt`; if given, `prior` also provides the curve.
    """
    curve = prior.curve if prior else fit_curve(rows.logits_N, rows.labels_N, rows.weights_N, all_reduce)
    curved = replace(rows, logits_N=curve.apply(rows.logits_N)) if curve else rows
    return replace(fit_platt(curved, all_reduce, prior), curve=curve)


@one_thread()
def fit_platt(
    rows: CalibrationRows, all_reduce: Callable[[Tensor], Tensor], prior: Calibration | None = None
) -> Calibration:
    """Fit the calibration of all domains, equal on all ranks.

    Args:
        rows: rows of this rank, which are all rows of its domains; rows whose logit is not finite are ignored.
        all_reduce: sums a tensor over ranks.
        prior: its row 0 is the mean of the prior distribution of each domain, and domains without rows keep its
            values; None: both use the regression over all rows.
    """
    good_N = rows.logits_N.isfinite()
    rows = CalibrationRows(
        rows.logits_N[good_N], rows.labels_N[good_N], rows.weights_N[good_N], rows.domain_N[good_N], rows.domains
    )
    if prior is None:
        together = CalibrationRows(rows.logits_N, rows.labels_N, rows.weights_N, torch.zeros_like(rows.domain_N), 1)
        start_2 = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
        mean_2, _ = _regression(together, start_2, torch.full_like(start_2, _WIDE), LEAST_SLOPE, all_reduce)
        made = Calibration(mean_2[0].expand(rows.domains + 1).clone(), mean_2[1].expand(rows.domains + 1).clone())
    else:
        made = Calibration.identity(rows.domains)
        kept = min(len(made.slope_K), len(prior.slope_K))
        for own_K, theirs_K in zip((made.slope_K, made.shift_K), (prior.slope_K, prior.shift_K), strict=True):
            own_K[:] = theirs_K[0]
            own_K[:kept] = theirs_K[:kept]
        mean_2 = torch.stack([made.slope_K[:1], made.shift_K[:1]])
    has_rows_n = torch.bincount(rows.domain_N, rows.weights_N, rows.domains) > 0
    fitted_2n = _fit_domains(rows, mean_2, has_rows_n, all_reduce)
    known_n = has_rows_n.double()
    total_3n = all_reduce(torch.cat([fitted_2n * known_n, known_n[None]]))
    fitted_n = total_3n[2] > 0
    for own_K, values_n in zip((made.slope_K, made.shift_K), total_3n[:2], strict=True):
        own_K[1:][fitted_n] = values_n[fitted_n]
    return made


def _fit_domains(
    rows: CalibrationRows, mean_2: Tensor, has_rows_n: Tensor, all_reduce: Callable[[Tensor], Tensor]
) -> Tensor:
    """Modes (a_i, b_i) [2, n] under the prior, whose variances are fitted to the rows of all domains."""
    mean_2n, at_2n = mean_2.expand(2, rows.domains), None
    variance_21 = torch.full((2, 1), START_TAU**2, dtype=torch.float64)
    least = LEAST_SLOPE * float(mean_2[0, 0])
    for _ in range(PRIOR_UPDATES):
        at_2n, spread_2n = _regression(rows, mean_2n, (1 / variance_21).expand_as(mean_2n), least, start_2G=at_2n)
        squares_2n = (at_2n - mean_2n).square() / variance_21
        sums_22 = torch.stack([squares_2n, 1 - spread_2n / variance_21])[:, :, has_rows_n].sum(2)
        squares_2, observed_2 = all_reduce(sums_22)
        factor_2 = (squares_2 / observed_2.clamp_min(1e-9)).clamp(1 / MAX_FACTOR, MAX_FACTOR)
        variance_21 = (variance_21 * factor_2[:, None]).clamp(LEAST_TAU**2, MOST_TAU**2)
    assert at_2n is not None
    return at_2n


def _regression(
    rows: CalibrationRows,
    mean_2G: Tensor,
    precision_2G: Tensor,
    least: float,
    all_reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
    start_2G: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Modes (a, b) for the rows of each group under a normal prior, and their posterior variances, [2, G] each.

    Slopes below `least` are set to it, and their shifts are fitted again.
    """
    at_2G, spread_2G = _newton(rows, mean_2G, precision_2G, all_reduce, mean_2G if start_2G is None else start_2G)
    low_G = at_2G[0] < least
    if low_G.any():
        held_2G, stiff_2G = mean_2G.clone(), precision_2G.clone()
        held_2G[0, low_G], stiff_2G[0, low_G] = least, _FIXED
        start_2G = at_2G.clone()
        start_2G[0, low_G] = least
        at_2G, _ = _newton(rows, held_2G, stiff_2G, all_reduce, start_2G)
        at_2G[0] = torch.where(low_G, least, at_2G[0])
    return at_2G, spread_2G


def _newton(
    rows: CalibrationRows, mean_2G: Tensor, precision_2G: Tensor, all_reduce: Callable[[Tensor], Tensor], at_2G: Tensor
) -> tuple[Tensor, Tensor]:
    """Newton's method for all groups at once; a step that would increase the objective of a group is halved."""

    def sums(*columns: Tensor) -> Tensor:
        return all_reduce(sums_by(rows.domain_N, rows.domains, *columns))

    def evaluate(tried_2G: Tensor) -> tuple[Tensor, Tensor]:
        slope_N, shift_N = tried_2G[:, rows.domain_N]
        logits_N = slope_N * rows.logits_N + shift_N
        (losses_G,) = sums(rows.weights_N * (softplus(logits_N) - rows.labels_N * logits_N))
        return logits_N, losses_G + ((tried_2G - mean_2G).square() * precision_2G).sum(0) / 2

    logits_N, objective_G = evaluate(at_2G)
    for step in range(STEPS + 1):
        probability_N = logits_N.sigmoid()
        residual_N = rows.weights_N * (probability_N - rows.labels_N)
        curvature_N = rows.weights_N * probability_N * (1 - probability_N)
        z_N = rows.logits_N
        found = sums(residual_N * z_N, residual_N, curvature_N * z_N * z_N, curvature_N * z_N, curvature_N)
        grad_2G = found[:2] + (at_2G - mean_2G) * precision_2G
        aa_G, ab_G, bb_G = found[2] + precision_2G[0], found[3], found[4] + precision_2G[1]
        determinant_G = aa_G * bb_G - ab_G.square()
        spread_2G = torch.stack([bb_G, aa_G]) / determinant_G
        move_2G = torch.stack([bb_G * grad_2G[0] - ab_G * grad_2G[1], aa_G * grad_2G[1] - ab_G * grad_2G[0]])
        move_2G = move_2G / determinant_G
        if step == STEPS or float(move_2G.abs().max()) < 1e-10:
            break
        share_G = torch.ones_like(objective_G)
        for _ in range(HALVINGS):
            tried_2G = at_2G - share_G * move_2G
            _, tried_G = evaluate(tried_2G)
            raised_G = ~(tried_G <= objective_G + 1e-12 * (1 + objective_G.abs()))
            if not raised_G.any():
                break
            share_G = torch.where(raised_G, share_G / 2, share_G)
        share_G = torch.where(raised_G, 0, share_G)  # no step decreases it: at the mode, except for rounding
        at_2G = at_2G - share_G * move_2G
        logits_N, objective_G = evaluate(at_2G)
        if not share_G.any():
            break
    return at_2G, spread_2G
