"""Figures derived for the report: differences between runs, groups by size, calibration.

Arrays are by domain, [n]; NaN where a figure is unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mamdr_core.reports.facts import Array, ReferenceRun

Z_95 = 1.959964
EQUAL = 5e-5
"""AUCs that differ by less are equal to four digits."""
SURE_CLICKS = 10
"""Minimum rows of each class for a domain in the lists of the best and the worst; with fewer, AUC is mostly noise."""


@dataclass(frozen=True)
class Difference:
    """Difference between two runs over the domains in which both have an AUC.

    Attributes:
        by_domain: AUC minus that of the other run, [n].
        domains: number of domains with a difference.
        mean: mean over domains.
        low, high: 95 % confidence interval of the mean, from the spread over domains.
        weighted: mean weighted by rows.
        better, worse: number of domains with a higher or lower AUC, to four digits.
    """

    by_domain: Array
    domains: int
    mean: float
    low: float
    high: float
    weighted: float
    better: int
    worse: int


def difference(other: ReferenceRun, rows: Array) -> Difference | None:
    """Difference between the run and another, weighted by rows of the test split; None if no domain has both AUCs."""
    by_domain = other.own - other.auc
    known = by_domain[~np.isnan(by_domain)]
    if not len(known):
        return None
    mean = float(known.mean())
    error = Z_95 * float(known.std(ddof=1)) / len(known) ** 0.5 if len(known) > 1 else float("nan")
    return Difference(
        by_domain=by_domain,
        domains=len(known),
        mean=mean,
        low=mean - error,
        high=mean + error,
        weighted=weighted_mean(by_domain, rows),
        better=int((known > EQUAL).sum()),
        worse=int((known < -EQUAL).sum()),
    )


def weighted_mean(values: Array, weights: Array) -> float:
    """Weighted mean of the known values; NaN if there are none."""
    known = ~np.isnan(values) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else float("nan")


def groups_by(sizes: Array, values: Array, groups: int = 8) -> tuple[Array, Array]:
    """Group the domains with a value by size, smallest first: geometric mean size and mean value of each group.

    Groups have equal numbers of domains, at least five; there are no groups if there would be only one.
    """
    known = np.flatnonzero(~np.isnan(values) & (sizes > 0))
    order = known[np.argsort(sizes[known], kind="stable")]
    groups = min(groups, len(order) // 5)
    parts = np.array_split(order, groups) if groups > 1 else []
    middle = [float(np.exp(np.log(sizes[part]).mean())) for part in parts]
    return np.array(middle), np.array([float(values[part].mean()) for part in parts])


def calibration(figures: Mapping[str, Array]) -> Array:
    """Mean prediction over CTR, [n]: above 1 the model overpredicts; NaN without clicks."""
    clicks = np.where(figures["clicks"] > 0, figures["clicks"], np.nan)
    return np.asarray(figures["mean_prediction"] * figures["rows"] / clicks)


def calibration_groups(figures: Mapping[str, Array], groups: int = 10) -> tuple[Array, Array]:
    """Mean prediction and CTR of groups of domains by mean prediction, with nearly equal rows in each group."""
    rows, clicks, predicted = (figures[name] for name in ("rows", "clicks", "mean_prediction"))
    known = np.flatnonzero((rows > 0) & ~np.isnan(predicted))
    order = known[np.argsort(predicted[known], kind="stable")]
    if not len(order):
        return np.zeros(0), np.zeros(0)
    before = np.cumsum(rows[order]) - rows[order] / 2
    group = np.minimum((before / rows[order].sum() * groups).astype(int), groups - 1)
    sums = [np.bincount(group, values, groups) for values in (rows[order], clicks[order], (predicted * rows)[order])]
    total, clicked, predicted_clicks = (each[sums[0] > 0].astype(np.float64) for each in sums)
    return predicted_clicks / total, clicked / total


def ranked(figures: Mapping[str, Array], listed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """The worst and best domains by AUC among those with enough rows of both classes; all domains if none has.

    Returns:
        Positions of the worst, lowest first; of the best, highest first; and whether domains with too few rows
        were left out.
    """
    auc, clicks = figures["auc"], figures["clicks"]
    sure = ~np.isnan(auc) & (clicks >= SURE_CLICKS) & (figures["rows"] - clicks >= SURE_CLICKS)
    among = np.flatnonzero(sure if sure.any() else ~np.isnan(auc))
    order = among[np.argsort(auc[among], kind="stable")]
    return order[:listed], order[::-1][:listed], bool(sure.any())
