"""From figures to a decision: every limit that is broken is a sentence with its numbers.

Shape suffixes: n domains, G groups: rows of one user in one domain.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from mamdr_core.promoting.intervals import Floats
from mamdr_core.promoting.measuring import Figures, Measured
from mamdr_core.promoting.settings import GateSettings


@dataclass(frozen=True)
class Interval:
    """A difference of AUCs with its interval."""

    value: float
    low: float
    high: float

    def is_drop(self, limit: float) -> bool:
        """Whether it lies below -limit, and is not explained by noise."""
        return self.value < -limit and self.high < 0


@dataclass(frozen=True)
class Lead:
    """AUC of a model on the newest day and on earlier days: means over the domains that have both, by the day's rows.

    Attributes:
        day, earlier: the AUCs.
        is_lost: whether less is kept of the lead over chance than `gate.least_day_lead`, beyond noise.
    """

    day: float
    earlier: float
    is_lost: bool


@dataclass(frozen=True)
class Judged:
    """What the figures come to.

    Attributes:
        faults: the broken limits, a sentence each.
        mean, weighted, gauc: the difference of the mean and of the weighted AUC, and of GAUC; None without a champion.
        low_n, high_n: the intervals by domain, [n].
        judged_n, worse_n: which domains are judged one by one, and which of them are worse, [n].
        challenger_lead, champion_lead: on the newest day; None where there is one day, or no champion.
    """

    faults: list[str]
    mean: Interval | None
    weighted: Interval | None
    gauc: Interval | None
    low_n: Floats
    high_n: Floats
    judged_n: NDArray[np.bool_]
    worse_n: NDArray[np.bool_]
    challenger_lead: Lead | None
    champion_lead: Lead | None


def mean_auc(figures: Figures) -> float:
    """Mean AUC over the domains that have one; NaN if none has."""
    known = ~np.isnan(figures.auc)
    return float(figures.auc[known].mean()) if known.any() else math.nan


def weighted_auc(figures: Figures) -> float:
    """The same, weighted by rows."""
    known = ~np.isnan(figures.auc)
    return float(np.average(figures.auc[known], weights=figures.rows[known])) if known.any() else math.nan


def gauc(measured: Measured, figures: Figures) -> float:
    """AUC by group, weighted by rows, over the groups that have one; NaN if none has."""
    known = ~np.isnan(figures.group_auc)
    weights = measured.group_rows[known]
    return float(np.average(figures.group_auc[known], weights=weights)) if known.any() else math.nan


def calibration(figures: Figures) -> float:
    """Sum of the predicted probabilities over clicks; infinite without a click."""
    clicks = figures.clicks.sum()
    return float(figures.promised.sum() / clicks) if clicks else math.inf


def judge(measured: Measured, unseen: dict[str, float], settings: GateSettings) -> Judged:
    """Hold figures against the limits.

    Args:
        measured: of both models.
        unseen: by "user" and "item", the share of the newest day's rows whose id is not known.
        settings: the limits.
    """
    z = NormalDist().inv_cdf((1 + settings.confidence) / 2)
    own, other = measured.challenger, measured.champion
    mean = weighted = by_group = None
    margin_n = z * np.sqrt(measured.variance)
    low_n, high_n = measured.difference - margin_n, measured.difference + margin_n
    judged_n = (own.clicks >= settings.domain_clicks) & (own.rows - own.clicks >= settings.domain_clicks)
    judged_n &= ~np.isnan(high_n)
    worse_n = judged_n & (measured.difference < -settings.domain_drop) & (high_n < 0)
    if other is not None:
        mean = _mean(measured, np.ones_like(own.rows), z)
        weighted = _mean(measured, own.rows, z)
        by_group = _gauc_difference(measured, own, other, z)
    lead = _lead(own, settings.least_day_lead, z)
    other_lead = _lead(other, settings.least_day_lead, z) if other else None
    judged = Judged([], mean, weighted, by_group, low_n, high_n, judged_n, worse_n, lead, other_lead)
    judged.faults.extend(_absolute(own, unseen, settings))
    judged.faults.extend(_labels(judged, settings))
    if other is not None:
        judged.faults.extend(_compared(measured, own, other, judged, settings))
    return judged


def _mean(measured: Measured, weights_n: Floats, z: float) -> Interval | None:
    """The weighted mean of the differences by domain; domains are independent of one another, given the models."""
    known = ~np.isnan(measured.difference)
    if not known.any():
        return None
    share_n = weights_n[known] / weights_n[known].sum()
    # Of a domain with one click or one other row the variance is not known: an AUC's difference has 1 at most.
    variance_n = np.nan_to_num(measured.variance[known], nan=1.0)
    value = float((share_n * measured.difference[known]).sum())
    margin = z * math.sqrt(float((share_n**2 * variance_n).sum()))
    return Interval(value, value - margin, value + margin)


def _gauc_difference(measured: Measured, own: Figures, other: Figures, z: float) -> Interval | None:
    """The difference of GAUC over the groups that have an AUC by both models, with its interval from their spread."""
    difference_G = own.group_auc - other.group_auc
    known = ~np.isnan(difference_G)
    count = int(known.sum())
    if not count:
        return None
    share_G = measured.group_rows[known] / measured.group_rows[known].sum()
    value = float((share_G * difference_G[known]).sum())
    # Of one group the spread is not known: an AUC's difference has 1 at most.
    variance = (
        float((share_G**2 * (difference_G[known] - value) ** 2).sum()) * count / (count - 1) if count > 1 else 1.0
    )
    margin = z * math.sqrt(variance)
    return Interval(value, value - margin, value + margin)


def _lead(figures: Figures, least: float, z: float) -> Lead | None:
    known = ~np.isnan(figures.day_variance) & ~np.isnan(figures.earlier_variance)
    if not known.any():
        return None
    share_n = figures.day_rows[known] / figures.day_rows[known].sum()
    day, earlier = (float((share_n * auc_n[known]).sum()) for auc_n in (figures.day_auc, figures.earlier_auc))
    of_day, of_earlier = (
        float((share_n**2 * variance_n[known]).sum()) for variance_n in (figures.day_variance, figures.earlier_variance)
    )
    had_one = earlier - 0.5 > z * math.sqrt(of_earlier)
    missing = least * (earlier - 0.5) - (day - 0.5)
    is_lost = least > 0 and had_one and missing > z * math.sqrt(of_day + least**2 * of_earlier)
    return Lead(day, earlier, is_lost)


def _absolute(own: Figures, unseen: dict[str, float], settings: GateSettings) -> Iterator[str]:
    bad = int(np.isnan(own.promised).sum())
    if bad:
        yield f"its predictions are not finite in {bad} domains"
    if np.isnan(own.auc).all():
        yield "no domain of the test split has both clicks and other rows: nothing can be measured"
        return
    auc = mean_auc(own)
    if auc < settings.least_auc:
        yield f"its mean AUC is {auc:.4f}, below gate.least_auc {settings.least_auc:g}"
    ratio = calibration(own)
    if not bad and not 1 / settings.max_calibration <= ratio <= settings.max_calibration:
        yield (
            f"its predictions sum to {ratio:.3g} times the clicks, beyond gate.max_calibration "
            f"{settings.max_calibration:g} or one over it"
        )
    for name, share in unseen.items():
        if share > settings.max_unseen:
            yield (
                f"the {name} of {share:.1%} of the newest day's rows is not known, more than gate.max_unseen "
                f"{settings.max_unseen:.0%}: were {name}s given new ids?"
            )


def _labels(judged: Judged, settings: GateSettings) -> Iterator[str]:
    """Whether no model finds on the newest day what it finds on earlier ones: then it is the labels."""
    leads = {"its": judged.challenger_lead, "the champion's": judged.champion_lead}
    known = {name: lead for name, lead in leads.items() if lead}
    if known and all(lead.is_lost for lead in known.values()):
        told = " and ".join(
            f"{name} AUC falls from {lead.earlier:.4f} to {lead.day:.4f}" for name, lead in known.items()
        )
        yield (
            f"the newest day's labels look wrong: from earlier days' rows to that day's, {told}; "
            f"gate.least_day_lead {settings.least_day_lead:g} of the lead over 0.5 must stay"
        )


def _compared(
    measured: Measured, own: Figures, other: Figures, judged: Judged, settings: GateSettings
) -> Iterator[str]:
    checks = (
        ("mean AUC", mean_auc, judged.mean, settings.max_auc_drop, "max_auc_drop"),
        ("weighted AUC", weighted_auc, judged.weighted, settings.max_weighted_auc_drop, "max_weighted_auc_drop"),
        ("GAUC", partial(gauc, measured), judged.gauc, settings.max_gauc_drop, "max_gauc_drop"),
    )
    for name, figure, difference, limit, key in checks:
        if difference and limit is not None and difference.is_drop(limit):
            yield (
                f"its {name} {figure(own):.4f} is {-difference.value:.4f} below the champion's {figure(other):.4f} "
                f"({told(difference, settings)}): more than gate.{key} {limit:g}"
            )
    judged_count, worse = int(judged.judged_n.sum()), int(judged.worse_n.sum())
    by_chance = binom.ppf(settings.confidence, judged_count, (1 - settings.confidence) / 2) if judged_count else 0
    if worse > max(settings.max_worse_share * judged_count, by_chance):
        yield (
            f"{worse} of {judged_count} domains are worse by more than gate.domain_drop {settings.domain_drop:g}, more "
            f"than gate.max_worse_share {settings.max_worse_share:.0%}"
        )


def told(difference: Interval, settings: GateSettings) -> str:
    """An interval in words."""
    return f"{settings.confidence:.0%} interval of the difference {difference.low:+.4f} to {difference.high:+.4f}"
