"""Statistics of a comparison from AUCs by domain: RANK, wins and losses, and the paired test.

Shape suffixes: M rows of the comparison (a model with a method), S seeds, n domains.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def mean_ranks(auc_MSn: Floats) -> Floats:
    """RANK of every row: the rank by AUC among all rows (1 is best), averaged over domains and seeds.

    Args:
        auc_MSn: AUC of all rows for the same domains and seeds, without NaN.

    Returns:
        [M], from 1 (best in every domain) to M; ties share the mean of their ranks.
    """
    ranks_MSn: Floats = stats.rankdata(-auc_MSn, method="average", axis=0)
    means: Floats = ranks_MSn.mean((1, 2))
    return means


@dataclass(frozen=True)
class PairedTest:
    """A row compared with its baseline domain by domain.

    Attributes:
        wins: number of domains with a higher AUC.
        ties: number of domains with an equal AUC.
        losses: number of domains with a lower AUC.
        difference: AUC minus that of the baseline, mean over domains.
        p_value: of the two-sided Wilcoxon signed-rank test; None if no domain differs.
    """

    wins: int
    ties: int
    losses: int
    difference: float
    p_value: float | None


def compare_domains(own_n: Floats, baseline_n: Floats) -> PairedTest:
    """Compare a row with its baseline; the test (Wilcoxon 1945) pairs domains, except those without a difference.

    Args:
        own_n: AUC by domain, averaged over seeds.
        baseline_n: AUC of the baseline for the same domains and seeds.
    """
    difference_n = own_n - baseline_n
    p_value = float(stats.wilcoxon(difference_n[difference_n != 0]).pvalue) if difference_n.any() else None
    return PairedTest(
        wins=int((difference_n > 0).sum()),
        ties=int((difference_n == 0).sum()),
        losses=int((difference_n < 0).sum()),
        difference=float(difference_n.mean()),
        p_value=p_value,
    )


def smallest_third(train_rows_n: Ints) -> NDArray[np.bool_]:
    """Mask of the third of the domains with the fewest training rows: rounded down, at least one, ties by index."""
    chosen_n = np.zeros(len(train_rows_n), dtype=np.bool_)
    chosen_n[np.argsort(train_rows_n, kind="stable")[: max(1, len(train_rows_n) // 3)]] = True
    return chosen_n


def spread(values: Floats) -> float | None:
    """Sample standard deviation over seeds; None with one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else None
