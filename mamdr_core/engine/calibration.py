"""Expected calibration error with bins of equal count: how far predicted probabilities are from observed rates.

ECE = sum over bins of |sum of predictions - sum of labels| / rows (Naeini et al. 2015, with equal-count bins as in
Nguyen and O'Connor 2015). Bin b of B holds places floor(b N / B) to floor((b + 1) N / B) of the rows in order of their
prediction. Rows of equal predictions share the mean of their labels, so the error does not depend on their order.

Shape suffixes: N rows, n segments, R runs of equal scores, B bins.
"""

import torch
from torch import Tensor

from mamdr_core.engine.segments import Runs, prefix

CELLS = 1 << 16
_LARGEST = 16.0  # a logit beyond which a probability is within 2e-7 of 0 or 1
_FIXED_BITS = 40


class Cells:
    """Rows counted in 65,536 cells by their logit, from which the error of all ranks' rows together is computed.

    Cells can be added over parts and ranks where sorting all predictions would need them in one place. The rows of a
    cell, whose probabilities differ by .05 % at most, count as equal, which matters only to cells at the bins' ends.

    Args:
        device: that measures.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(2, CELLS, dtype=torch.float64, device=device)
        """Rows, and predictions less labels, by cell."""

    def add(self, runs: Runs) -> None:
        """Count rows whose scores are logits; those that are not finite make the error NaN."""
        residuals_R, scale = _residuals(runs)
        cell_R = cells_of(runs.scores_R.nan_to_num())
        # In integers, as the order in which CUDA adds varies.
        counted = torch.zeros(2, CELLS, dtype=torch.int64, device=self.sums.device)
        counted[0].index_add_(0, cell_R, runs.edges_R.diff())
        counted[1].index_add_(0, cell_R, residuals_R)
        self.sums[0] += counted[0]
        self.sums[1] += counted[1].double() / scale
        if runs.bad_n.any():
            self.sums[1] += torch.nan

    def error(self, bins: int) -> float:
        """The error of all rows that were counted; NaN without any."""
        counts, residuals = self.sums.cpu()
        bounds = prefix(counts.long())[[0, -1]]
        return float(_error(prefix(counts.long()), residuals, bounds, bins)[0])


def cells_of(logits: Tensor) -> Tensor:
    """The cell of each finite logit in a fixed grid of `CELLS` cells of equal width, int64."""
    return ((logits.clamp(-_LARGEST, _LARGEST) / _LARGEST + 1) / 2 * (CELLS - 1)).long()


def calibration_error(runs: Runs, bins: int) -> Tensor:
    """The error of each segment of rows whose scores are logits.

    Args:
        runs: of the rows.
        bins: B; a segment of fewer rows has one for each.

    Returns:
        float64 [n]; NaN for a segment without rows or with a score that is not finite.
    """
    residuals_R, scale = _residuals(runs)
    errors_n = _error(runs.edges_R, residuals_R, runs.bounds_n, bins) / scale
    errors_n[runs.bad_n] = torch.nan
    return errors_n


def _residuals(runs: Runs) -> tuple[Tensor, int]:
    """Predictions less labels, summed by run, in whole multiples of 1 / scale, int64 [R]; and the scale.

    Sums over segments are exact so, whatever came before: in floating point they would lose digits in small segments
    that come after many rows.
    """
    scale = 1 << min(_FIXED_BITS, 61 - int(runs.edges_R[-1]).bit_length())
    probability_R = (runs.scores_R.nan_to_num().sigmoid() * scale).round().long()
    return runs.edges_R.diff() * probability_R - runs.positives_R.diff() * scale, scale


def _error(edges_R: Tensor, residuals_R: Tensor, bounds_n: Tensor, bins: int) -> Tensor:
    """Mean absolute sum of residuals over the bins of each segment, float64 [n]; NaN without rows."""
    steps = torch.arange(bins + 1, device=edges_R.device)
    rows_n = bounds_n.diff()
    ends_nB = bounds_n[:-1, None] + rows_n[:, None] * steps // bins
    # The last run that begins at or before an end; of it the bin has the part up to that end.
    run_nB = torch.searchsorted(edges_R, ends_nB, right=True) - 1
    length_R = torch.cat([edges_R.diff(), edges_R.new_ones(1)])  # beyond the last run nothing follows
    last_R = torch.cat([residuals_R, residuals_R.new_zeros(1)])
    part_nB = (ends_nB - edges_R[run_nB]).double() * (last_R[run_nB].double() / length_R[run_nB])
    sums_nB = prefix(residuals_R)[run_nB].diff().double() + part_nB.diff()
    return sums_nB.abs().sum(1) / rows_n
