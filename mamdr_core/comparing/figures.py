"""What a comparison says of its rows: RANK, wins and losses, and the paired test, from AUCs by domain.

Shape suffixes: M rows of the comparison (a model with a method), S seeds, n domains.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def mean_ranks(auc_MSn: Floats) -> Floats:
    """RANK of every row: its rank by AUC in a domain among all rows, best first, averaged over domains and seeds.

    Args:
        auc_MSn: AUC of all rows in the same domains and with the same seeds; no NaN.

    Returns:
        [M], from 1 (best in every domain) to M; rows of equal AUC in a domain share the mean of their ranks.
    """
    ranks_MSn: Floats = stats.rankdata(-auc_MSn, method="average", axis=0)
    means: Floats = ranks_MSn.mean((1, 2))
    return means


@dataclass(frozen=True)
class Against:
    """A row against its baseline, domain by domain.

    Attributes:
        wins: domains in which its AUC is higher.
        ties: in which it is equal.
        losses: in which it is lower.
        difference: mean over domains of its AUC less the baseline's.
        p_value: of Wilcoxon's signed-rank test, two-sided, that differences are symmetric about 0; None where no
            domain differs.
    """

    wins: int
    ties: int
    losses: int
    difference: float
    p_value: float | None


def compare_domains(own_n: Floats, baseline_n: Floats) -> Against:
    """A row against its baseline; the test pairs domains (Wilcoxon 1945), those without a difference left out.

    Args:
        own_n: AUC by domain, averaged over seeds.
        baseline_n: the baseline's, of the same domains and seeds.
    """
    difference_n = own_n - baseline_n
    p_value = float(stats.wilcoxon(difference_n[difference_n != 0]).pvalue) if difference_n.any() else None
    return Against(
        wins=int((difference_n > 0).sum()),
        ties=int((difference_n == 0).sum()),
        losses=int((difference_n < 0).sum()),
        difference=float(difference_n.mean()),
        p_value=p_value,
    )


def smallest_third(train_rows_n: Ints) -> NDArray[np.bool_]:
    """Which domains are the third with fewest training rows, rounded down but at least one; of equal ones the first."""
    chosen_n = np.zeros(len(train_rows_n), dtype=np.bool_)
    chosen_n[np.argsort(train_rows_n, kind="stable")[: max(1, len(train_rows_n) // 3)]] = True
    return chosen_n


def spread(values: Floats) -> float | None:
    """Standard deviation over seeds, of the sample; None with one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else None
