"""Platt scaling by domain: logits a_i z + b_i that are fitted to held-out rows, with a prior that domains share.

Platt 1999; each (a_i, b_i) has a normal prior around the regression over all domains' rows, whose variances are
learned from all domains (empirical Bayes, MacKay 1992), so that domains of few rows keep what all have in common.

Shape suffixes: N rows, n domains, G groups of rows, K domains and, first, those that are not known.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mamdr_core.engine.isotonic import Curve, fit_curve
from mamdr_core.engine.threads import one_thread

FASTEST = 25.0
"""Largest factor by which a variance of the prior changes in one update."""
LEAST_TAU, START_TAU, MOST_TAU = 1e-3, 0.3, 3.0
"""Standard deviations of the prior: bounds, and at the start."""
ROUNDS, STEPS, HALVINGS = 10, 30, 12
"""Updates of the prior; steps of Newton's method, and halvings of one, at most."""
LEAST_SLOPE = 0.05
"""Smallest slope of all domains, and of one over that of all: larger than 0, so that no order of rows changes."""
_WIDE = 1e-4  # precision of the prior of all domains' regression
_FIXED = 1e12  # precision of a slope that is not to move


@dataclass(frozen=True)
class Calibration:
    """By domain, a positive slope and a shift of logits, after an increasing curve that all domains share.

    Attributes:
        slope_K, shift_K: float64 [n + 1]; domain i has row i + 1, and row 0 is of domains without one.
        curve: None: there is none.
    """

    slope_K: Tensor
    shift_K: Tensor
    curve: Curve | None = None

    @classmethod
    def identity(cls, domains: int) -> "Calibration":
        """One that leaves logits as they are."""
        ones_K = torch.ones(domains + 1, dtype=torch.float64)
        return cls(ones_K, torch.zeros_like(ones_K))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Calibration":
        """As `tensors` gives it."""
        curve = Curve(tensors["knots"], tensors["values"]) if "knots" in tensors else None
        return cls(tensors["slope"], tensors["shift"], curve)

    def tensors(self) -> dict[str, Tensor]:
        """What is saved of it."""
        curve = {"knots": self.curve.knots_J, "values": self.curve.values_J} if self.curve else {}
        return {"slope": self.slope_K, "shift": self.shift_K, **curve}

    def with_negatives_of(self, rate: float) -> "Calibration":
        """For a log that keeps this share of the negatives: p / (p + (1 - p) / rate), a shift of the logit.

        He et al. 2014, section 6.3.
        """
        return replace(self, shift_K=self.shift_K + math.log(rate))

    def apply(self, logits_N: Tensor, domain_N: Tensor) -> Tensor:
        """Calibrated logits, float64 [N], on the device of the logits.

        Args:
            logits_N: any float.
            domain_N: index of each row's domain; below 0 or beyond those that are known: row 0.
        """
        place_N = self._places(domain_N)
        slope_N, shift_N = (each[place_N].to(logits_N.device) for each in (self.slope_K, self.shift_K))
        curved_N = self.curve.apply(logits_N) if self.curve else logits_N.double()
        return curved_N * slope_N + shift_N

    def slopes(self, calibrated_N: Tensor, domain_N: Tensor) -> Tensor:
        """Derivative of the calibrated logits with respect to the model's, float64 [N], on the CPU.

        Args:
            calibrated_N: as `apply` returns them.
            domain_N: see `apply`.
        """
        place_N = self._places(domain_N)
        slope_N = self.slope_K[place_N]
        if not self.curve:
            return slope_N
        return slope_N * self.curve.slope_at((calibrated_N.double().cpu() - self.shift_K[place_N]) / slope_N)

    def _places(self, domain_N: Tensor) -> Tensor:
        """The rows of domains, int64 [N], on the CPU."""
        place_N = domain_N.long().cpu() + 1
        return torch.where(place_N < len(self.slope_K), place_N, 0).clamp_min_(0)


@dataclass(frozen=True)
class CalibrationRows:
    """A rank's rows that a calibration is fitted to, on the CPU.

    Attributes:
        logits_N, labels_N: float64.
        weights_N: sample weights, float64.
        domain_N: index of each row's domain, int64.
        domains: number n.
    """

    logits_N: Tensor
    labels_N: Tensor
    weights_N: Tensor
    domain_N: Tensor
    domains: int


def fit_isotonic(
    rows: CalibrationRows, all_reduce: Callable[[Tensor], Tensor], otherwise: Calibration | None = None
) -> Calibration:
    """The curve of all domains' rows, and Platt scaling by domain of the logits that it gives.

    Args: see `fit_platt`; the curve of `otherwise` is kept.
    """
    curve = otherwise.curve if otherwise else fit_curve(rows.logits_N, rows.labels_N, rows.weights_N, all_reduce)
    curved = replace(rows, logits_N=curve.apply(rows.logits_N)) if curve else rows
    return replace(fit_platt(curved, all_reduce, otherwise), curve=curve)


@one_thread()
def fit_platt(
    rows: CalibrationRows, all_reduce: Callable[[Tensor], Tensor], otherwise: Calibration | None = None
) -> Calibration:
    """The calibration of all domains, the same on every rank; each domain's rows are on one rank.

    Args:
        rows: this rank's; rows whose logit is not finite do not count.
        all_reduce: the sum over ranks.
        otherwise: what domains without rows keep, and whose row 0 is what domains share; None: the regression over all
            rows is, and domains without rows take that.
    """
    good_N = rows.logits_N.isfinite()
    rows = CalibrationRows(
        rows.logits_N[good_N], rows.labels_N[good_N], rows.weights_N[good_N], rows.domain_N[good_N], rows.domains
    )
    if otherwise is None:
        together = CalibrationRows(rows.logits_N, rows.labels_N, rows.weights_N, torch.zeros_like(rows.domain_N), 1)
        start_2 = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
        mean_2, _ = _regression(together, start_2, torch.full_like(start_2, _WIDE), LEAST_SLOPE, all_reduce)
        made = Calibration(mean_2[0].expand(rows.domains + 1).clone(), mean_2[1].expand(rows.domains + 1).clone())
    else:
        made = Calibration.identity(rows.domains)
        kept = min(len(made.slope_K), len(otherwise.slope_K))
        for own_K, theirs_K in zip((made.slope_K, made.shift_K), (otherwise.slope_K, otherwise.shift_K), strict=True):
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
    """Modes (a_i, b_i) [2, n] under the prior that all domains' rows give."""
    mean_2n, at_2n = mean_2.expand(2, rows.domains), None
    variance_21 = torch.full((2, 1), START_TAU**2, dtype=torch.float64)
    least = LEAST_SLOPE * float(mean_2[0, 0])
    for _ in range(ROUNDS):
        at_2n, spread_2n = _regression(rows, mean_2n, (1 / variance_21).expand_as(mean_2n), least, start_2G=at_2n)
        squares_2n = (at_2n - mean_2n).square() / variance_21
        sums_22 = torch.stack([squares_2n, 1 - spread_2n / variance_21])[:, :, has_rows_n].sum(2)
        squares_2, observed_2 = all_reduce(sums_22)
        factor_2 = (squares_2 / observed_2.clamp_min(1e-9)).clamp(1 / FASTEST, FASTEST)
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
    """Modes (a, b) of each group's rows under a normal prior, and their posterior variances, [2, G] each.

    A slope below `least` is set to it, and its shift is fitted again.
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
    """Newton's method for all groups at once; a step that would raise a group's objective is halved."""

    def sums(*columns: Tensor) -> Tensor:
        # Without rows bincount counts in int64, and ranks must reduce tensors of one type.
        counted = [torch.bincount(rows.domain_N, each, rows.domains).double() for each in columns]
        return all_reduce(torch.stack(counted))

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
        slope_2G = found[:2] + (at_2G - mean_2G) * precision_2G
        aa_G, ab_G, bb_G = found[2] + precision_2G[0], found[3], found[4] + precision_2G[1]
        determinant_G = aa_G * bb_G - ab_G.square()
        spread_2G = torch.stack([bb_G, aa_G]) / determinant_G
        move_2G = torch.stack([bb_G * slope_2G[0] - ab_G * slope_2G[1], aa_G * slope_2G[1] - ab_G * slope_2G[0]])
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
        share_G = torch.where(raised_G, 0, share_G)  # no step lowers it: it is at its mode, but for rounding
        at_2G = at_2G - share_G * move_2G
        logits_N, objective_G = evaluate(at_2G)
        if not share_G.any():
            break
    return at_2G, spread_2G
