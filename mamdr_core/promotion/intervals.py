"""AUC by domain with its variance, and of the difference between two models on the same rows (DeLong et al. 1988).

In a domain with m clicks and n other rows, the placement of a click is the share of the other rows that score lower,
and the placement of another row is the share of the clicks that score higher; ties count half. The AUC is the mean
placement of the clicks (or of the others), and its variance is S(clicks) / m + S(others) / n with the sample variances
S of the placements. The difference between two models is the mean difference of their placements; its variance follows
in the same way and so includes the correlation between the models.

Shape suffixes: N rows, n domains.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def placements(scores_N: NDArray[Any], labels_N: NDArray[Any], offsets: Ints) -> Floats:
    """Placement of every row among the rows of the other class in its domain.

    Args:
        scores_N: sorted by domain.
        labels_N: 0 or 1.
        offsets: first row of each domain, [n + 1].

    Returns:
        float64 [N]; NaN in domains with one class only, or with a score that is not finite.

    Example:
        >>> placements(np.array([0.1, 0.5, 0.5]), np.array([0, 1, 0]), np.array([0, 3])).tolist()
        [1.0, 0.75, 0.5]
    """
    domains, counts_n = len(offsets) - 1, np.diff(offsets)
    domain_N = np.repeat(np.arange(domains), counts_n)
    clicks_N = labels_N > 0
    order = np.lexsort((scores_N, domain_N))
    score_N, segment_N, click_N = scores_N[order], domain_N[order], clicks_N[order]
    # A run consists of rows of one domain with equal scores.
    begins = np.ones(len(order), dtype=np.bool_)
    begins[1:] = (score_N[1:] != score_N[:-1]) | (segment_N[1:] != segment_N[:-1])
    run_N = np.cumsum(begins) - 1
    clicks_R = np.bincount(run_N, click_N)
    others_R = np.bincount(run_N, ~click_N)
    clicks_n, others_n = np.bincount(domain_N, clicks_N, domains), np.bincount(domain_N, ~clicks_N, domains)
    at_R = segment_N[begins]
    # Ties count half, which is the middle of the run; rows of earlier domains are subtracted.
    others_below_R = others_R.cumsum() - others_R / 2 - (others_n.cumsum() - others_n)[at_R]
    clicks_above_R = clicks_n.cumsum()[at_R] - clicks_R.cumsum() + clicks_R / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        of_click_R, of_other_R = others_below_R / others_n[at_R], clicks_above_R / clicks_n[at_R]
    placed_N = np.empty(len(order))
    placed_N[order] = np.where(click_N, of_click_R[run_N], of_other_R[run_N])
    unknown_n = (clicks_n == 0) | (others_n == 0)
    unknown_n[domain_N[~np.isfinite(scores_N)]] = True
    placed_N[unknown_n[domain_N]] = np.nan
    return placed_N


def mean_and_variance(placed_N: Floats, labels_N: NDArray[Any], offsets: Ints) -> tuple[Floats, Floats]:
    """AUC and its variance by domain, from placements; or the AUC difference and its variance, from differences.

    Returns:
        Both float64 [n]: the mean, NaN where placements are NaN; the variance, NaN also with a single row of a class.
    """
    domains = len(offsets) - 1
    domain_N = np.repeat(np.arange(domains), np.diff(offsets))
    mean_n, variance_n = np.full(domains, np.nan), np.zeros(domains)
    for number, chosen_N in enumerate((labels_N > 0, labels_N <= 0)):
        at, placed = domain_N[chosen_N], placed_N[chosen_N]
        count_n = np.bincount(at, minlength=domains)
        with np.errstate(invalid="ignore", divide="ignore"):
            own_n = np.bincount(at, placed, domains) / count_n
            squares_n = np.bincount(at, (placed - own_n[at]) ** 2, domains)
            variance_n += squares_n / (count_n - 1) / count_n
        mean_n = own_n if number == 0 else mean_n
    variance_n[~np.isfinite(mean_n) | ~np.isfinite(variance_n)] = np.nan
    return mean_n, variance_n
