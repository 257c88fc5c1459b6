"""Checks figures against the limits of the gate; every violated limit is a sentence with its figures.

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

from mamdr_core.config.promotion import GateSettings
from mamdr_core.promotion.intervals import Floats
from mamdr_core.promotion.measuring import Figures, PairedFigures


@dataclass(frozen=True)
class Interval:
    """A difference of AUCs with its confidence interval."""

    value: float
    low: float
    high: float

    def is_drop(self, limit: float) -> bool:
        """Whether the difference is below -limit and its interval below 0."""
        return self.value < -limit and self.high < 0


@dataclass(frozen=True)
class Lead:
    """AUC of a model on the newest and on earlier days: means over domains with both, weighted by rows of that day.

    Attributes:
        day, earlier: the AUCs.
        is_lost: whether the newest day keeps significantly less than `gate.least_day_lead` of the lead over chance.
    """

    day: float
    earlier: float
    is_lost: bool


@dataclass(frozen=True)
class Verdict:
    """Result of the checks.

    Attributes:
        violations: the violated limits, one sentence each.
        mean, weighted, gauc: differences of mean AUC, weighted AUC and GAUC; None without a champion.
        low_n, high_n: confidence intervals by domain, [n].
        judged_n, worse_n: masks of the domains that are judged individually, and of those that are worse, [n].
        challenger_lead, champion_lead: AUC on the newest day; None with a single day or without a champion.
    """

    violations: list[str]
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
    """Mean AUC over the domains with an AUC; NaN if there are none."""
    known = ~np.isnan(figures.auc)
    return float(figures.auc[known].mean()) if known.any() else math.nan


def weighted_auc(figures: Figures) -> float:
    """Mean AUC over domains weighted by rows; NaN if no domain has an AUC."""
    known = ~np.isnan(figures.auc)
    return float(np.average(figures.auc[known], weights=figures.rows[known])) if known.any() else math.nan


def gauc(paired: PairedFigures, figures: Figures) -> float:
    """Mean AUC over groups weighted by rows; NaN if no group has an AUC."""
    known = ~np.isnan(figures.group_auc)
    weights = paired.group_rows[known]
    return float(np.average(figures.group_auc[known], weights=weights)) if known.any() else math.nan


def calibration(figures: Figures) -> float:
    """Sum of the predicted probabilities divided by clicks; infinite without clicks."""
    clicks = figures.clicks.sum()
    return float(figures.predicted.sum() / clicks) if clicks else math.inf


def judge(paired: PairedFigures, unseen: dict[str, float], settings: GateSettings) -> Verdict:
    """Check figures against the limits.

    Args:
        paired: figures of both models.
        unseen: for "user" and "item", the share of rows of the newest day with an unknown id.
        settings: the limits.
    """
    z = NormalDist().inv_cdf((1 + settings.confidence) / 2)
    own, other = paired.challenger, paired.champion
    mean = weighted = by_group = None
    margin_n = z * np.sqrt(paired.variance)
    low_n, high_n = paired.difference - margin_n, paired.difference + margin_n
    judged_n = (own.clicks >= settings.domain_clicks) & (own.rows - own.clicks >= settings.domain_clicks)
    judged_n &= ~np.isnan(high_n)
    worse_n = judged_n & (paired.difference < -settings.domain_drop) & (high_n < 0)
    if other is not None:
        mean = _mean(paired, np.ones_like(own.rows), z)
        weighted = _mean(paired, own.rows, z)
        by_group = _gauc_difference(paired, own, other, z)
    lead = _lead(own, settings.least_day_lead, z)
    other_lead = _lead(other, settings.least_day_lead, z) if other else None
    verdict = Verdict([], mean, weighted, by_group, low_n, high_n, judged_n, worse_n, lead, other_lead)
    verdict.violations.extend(_absolute(own, unseen, settings))
    verdict.violations.extend(_labels(verdict, settings))
    if other is not None:
        verdict.violations.extend(_compared(paired, own, other, verdict, settings))
    return verdict


def _mean(paired: PairedFigures, weights_n: Floats, z: float) -> Interval | None:
    """Weighted mean of the differences by domain; domains are independent given the models."""
    known = ~np.isnan(paired.difference)
    if not known.any():
        return None
    share_n = weights_n[known] / weights_n[known].sum()
    # The variance is unknown with a single click or a single other row; it is at most 1 for a difference of AUCs.
    variance_n = np.nan_to_num(paired.variance[known], nan=1.0)
    value = float((share_n * paired.difference[known]).sum())
    margin = z * math.sqrt(float((share_n**2 * variance_n).sum()))
    return Interval(value, value - margin, value + margin)


def _gauc_difference(paired: PairedFigures, own: Figures, other: Figures, z: float) -> Interval | None:
    """Difference of GAUC over groups with an AUC in both models; the interval follows from the spread over groups."""
    difference_G = own.group_auc - other.group_auc
    known = ~np.isnan(difference_G)
    count = int(known.sum())
    if not count:
        return None
    share_G = paired.group_rows[known] / paired.group_rows[known].sum()
    value = float((share_G * difference_G[known]).sum())
    # The spread is unknown with a single group; the variance of a difference of AUCs is at most 1.
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
    had_lead = earlier - 0.5 > z * math.sqrt(of_earlier)
    missing = least * (earlier - 0.5) - (day - 0.5)
    is_lost = least > 0 and had_lead and missing > z * math.sqrt(of_day + least**2 * of_earlier)
    return Lead(day, earlier, is_lost)


def _absolute(own: Figures, unseen: dict[str, float], settings: GateSettings) -> Iterator[str]:
    bad = int(np.isnan(own.predicted).sum())
    if bad:
        yield f"its predictions are not finite in {bad} domains"
    if np.isnan(own.auc).all():
        yield "no domain of the test split has both clicks and other rows: no AUC can be measured"
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
                f"the {name} is unknown in {share:.1%} of the rows of the newest day, more than gate.max_unseen "
                f"{settings.max_unseen:.0%}: have {name}s been given new ids?"
            )


def _labels(verdict: Verdict, settings: GateSettings) -> Iterator[str]:
    """A violation if all models lose their lead on the newest day: then its labels are the likely cause."""
    leads = {"its": verdict.challenger_lead, "the champion's": verdict.champion_lead}
    known = {name: lead for name, lead in leads.items() if lead}
    if known and all(lead.is_lost for lead in known.values()):
        falls = " and ".join(
            f"{name} AUC falls from {lead.earlier:.4f} to {lead.day:.4f}" for name, lead in known.items()
        )
        yield (
            f"the newest day's labels look wrong: from earlier days to that day, {falls}; "
            f"less than gate.least_day_lead {settings.least_day_lead:g} of the lead over 0.5 remains"
        )


def _compared(
    paired: PairedFigures, own: Figures, other: Figures, verdict: Verdict, settings: GateSettings
) -> Iterator[str]:
    checks = (
        ("mean AUC", mean_auc, verdict.mean, settings.max_auc_drop, "max_auc_drop"),
        ("weighted AUC", weighted_auc, verdict.weighted, settings.max_weighted_auc_drop, "max_weighted_auc_drop"),
        ("GAUC", partial(gauc, paired), verdict.gauc, settings.max_gauc_drop, "max_gauc_drop"),
    )
    for name, figure, difference, limit, key in checks:
        if difference and limit is not None and difference.is_drop(limit):
            yield (
                f"its {name} {figure(own):.4f} is {-difference.value:.4f} below the champion's {figure(other):.4f} "
                f"({describe_interval(difference, settings)}): more than gate.{key} {limit:g}"
            )
    judged_count, worse = int(verdict.judged_n.sum()), int(verdict.worse_n.sum())
    by_chance = binom.ppf(settings.confidence, judged_count, (1 - settings.confidence) / 2) if judged_count else 0
    if worse > max(settings.max_worse_share * judged_count, by_chance):
        yield (
            f"{worse} of {judged_count} domains are worse by more than gate.domain_drop {settings.domain_drop:g}, more "
            f"than gate.max_worse_share {settings.max_worse_share:.0%}"
        )


def describe_interval(difference: Interval, settings: GateSettings) -> str:
    """The confidence interval as text."""
    return f"{settings.confidence:.0%} interval of the difference {difference.low:+.4f} to {difference.high:+.4f}"
