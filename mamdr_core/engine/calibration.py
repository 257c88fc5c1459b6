"""Expected calibration error with bins of equal count: the distance of predicted probabilities from observed rates.

ECE = sum over bins of |sum of predictions - sum of labels| / rows (Naeini et al. 2015, with equal-count bins as in
Nguyen and O'Connor 2015). Bin b of B contains positions floor(b N / B) to floor((b + 1) N / B) of the rows sorted by
prediction. Rows with equal predictions share the mean of their labels, so the error does not depend on their order.

Shape suffixes: N rows, n segments, R runs of equal scores, B bins.
"""

import torch
from torch import Tensor

from mamdr_core.engine.segments import Runs, prefix

CELLS = 1 << 16
_LARGEST = 16.0  # a logit beyond which a probability is within 2e-7 of 0 or 1
_FIXED_BITS = 40


class Cells:
    """Counts of rows in 65,536 cells by logit, from which the error over the rows of all ranks is computed.

    Cells can be summed over parts and ranks, without sorting all predictions on one rank. Rows of a cell count as
    equal: their probabilities differ by .05 % at most, which matters only for cells at the ends of bins.

    Args:
        device: device of the counts.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(2, CELLS, dtype=torch.float64, device=device)
        """Number of rows, and sum of predictions minus labels, by cell, float64 [2, CELLS]."""

    def add(self, runs: Runs) -> None:
        """Count rows whose scores are logits; a logit that is not finite makes the error NaN."""
        residuals_R, scale = _residuals(runs)
        cell_R = cells_of(runs.scores_R.nan_to_num())
        # In integers, since the order of summation varies on CUDA.
        counted = torch.zeros(2, CELLS, dtype=torch.int64, device=self.sums.device)
        counted[0].index_add_(0, cell_R, runs.edges_R.diff())
        counted[1].index_add_(0, cell_R, residuals_R)
        self.sums[0] += counted[0]
        self.sums[1] += counted[1].double() / scale
        if runs.bad_n.any():
            self.sums[1] += torch.nan

    def error(self, bins: int) -> float:
        """The error of all counted rows; NaN without rows."""
        counts, residuals = self.sums.cpu()
        bounds = prefix(counts.long())[[0, -1]]
        return float(_error(prefix(counts.long()), residuals, bounds, bins)[0])


def cells_of(logits: Tensor) -> Tensor:
    """The cell of each finite logit in a fixed grid of `CELLS` cells of equal width, int64."""
    return ((logits.clamp(-_LARGEST, _LARGEST) / _LARGEST + 1) / 2 * (CELLS - 1)).long()


def calibration_error(runs: Runs, bins: int) -> Tensor:
    """The error of each segment of rows whose scores are logits.

    Args:
        runs: the sorted rows.
        bins: B; a segment of fewer rows has one bin per row.

    Returns:
        float64 [n]; NaN for a segment without rows or with a score that is not finite.
    """
    residuals_R, scale = _residuals(runs)
    errors_n = _error(runs.edges_R, residuals_R, runs.bounds_n, bins) / scale
    errors_n[runs.bad_n] = torch.nan
    return errors_n


def _residuals(runs: Runs) -> tuple[Tensor, int]:
    """Sums of predictions minus labels by run, in integer multiples of 1 / scale, int64 [R], and the scale.

    With integers, differences of prefix sums are exact. In floating point small segments after many rows would lose
    digits.
    """
    scale = 1 << min(_FIXED_BITS, 61 - int(runs.edges_R[-1]).bit_length())
    probability_R = (runs.scores_R.nan_to_num().sigmoid() * scale).round().long()
    return runs.edges_R.diff() * probability_R - runs.positives_R.diff() * scale, scale


def _error(edges_R: Tensor, residuals_R: Tensor, bounds_n: Tensor, bins: int) -> Tensor:
    """Mean absolute sum of residuals over the bins of each segment, float64 [n]; NaN without rows."""
    steps = torch.arange(bins + 1, device=edges_R.device)
    rows_n = bounds_n.diff()
    ends_nB = bounds_n[:-1, None] + rows_n[:, None] * steps // bins
    # The last run that begins at or before the end of a bin; the bin contains its rows up to that end.
    run_nB = torch.searchsorted(edges_R, ends_nB, right=True) - 1
    length_R = torch.cat([edges_R.diff(), edges_R.new_ones(1)])  # for ends after the last run
    last_R = torch.cat([residuals_R, residuals_R.new_zeros(1)])
    part_nB = (ends_nB - edges_R[run_nB]).double() * (last_R[run_nB].double() / length_R[run_nB])
    sums_nB = prefix(residuals_R)[run_nB].diff().double() + part_nB.diff()
    return sums_nB.abs().sum(1) / rows_n
