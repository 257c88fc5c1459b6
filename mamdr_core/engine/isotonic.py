"""Isotonic calibration: an increasing, piecewise linear curve of logits, fitted to held-out rows of all domains.

It is the pool-adjacent-violators algorithm on rows sorted by logit (Zadrozny and Elkan 2002), with three measures
against overfitting. Rows are first aggregated in bins of equal count. Each bin gets PSEUDO_ROWS additional rows with
the click rate that the model predicts, so no probability is 0 or 1. The curve is linear between the pooled bins, not a
step function, and its slope is at least LEAST_SLOPE, so distinct logits remain distinct.

Shape suffixes: N rows, B bins, J knots.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.calibration import CELLS, cells_of
from mamdr_core.engine.threads import one_thread

Floats = NDArray[np.float64]

BIN_ROWS, MOST_BINS = 100, 128
"""Minimum number of rows of a bin, and maximum number of bins."""
PSEUDO_ROWS = 2.0
LEAST_SLOPE = 0.05
"""Minimum slope of the curve between two knots."""
LEAST_DISTANCE = 0.01
"""Minimum distance of two knots in logits; it bounds the slope between them."""
_LEAST_RATE = 1e-12  # rates of bins are at least this and at most 1 minus this, so that their logits are finite


@dataclass(frozen=True)
class Curve:
    """An increasing, piecewise linear function of logits, with slope 1 before its first and after its last knot.

    Attributes:
        knots_J: increasing logits, float64; at least one.
        values_J: the calibrated logits there, increasing.
    """

    knots_J: Tensor
    values_J: Tensor

    @property
    def slopes(self) -> Tensor:
        """Slopes before the first knot, between knots, and after the last knot, float64 [J + 1]."""
        between = self.values_J.diff() / self.knots_J.diff()
        one = torch.ones(1, dtype=torch.float64)
        return torch.cat([one, between, one])

    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each piece of the curve a knot, the value there, and the slope, [J + 1] each.

        Piece j contains the logits that are greater than or equal to j knots.
        """
        first = torch.zeros(1, dtype=torch.int64)
        knot = torch.cat([first, torch.arange(len(self.knots_J))])
        return self.knots_J[knot], self.values_J[knot], self.slopes

    def apply(self, logits_N: Tensor) -> Tensor:
        """Calibrated logits, float64 [N], on the device of the logits."""
        knot, value, slope = (each.to(logits_N.device) for each in self.pieces())
        logits_N = logits_N.double()
        piece_N = torch.searchsorted(self.knots_J.to(logits_N.device), logits_N, right=True)
        return value[piece_N] + slope[piece_N] * (logits_N - knot[piece_N])

    def slope_at(self, calibrated_N: Tensor) -> Tensor:
        """Slopes of the curve at the logits with these calibrated values, float64 [N]."""
        return self.slopes[torch.searchsorted(self.values_J, calibrated_N.double().cpu(), right=True)]


@one_thread()
def fit_curve(
    logits_N: Tensor, labels_N: Tensor, weights_N: Tensor, all_reduce: Callable[[Tensor], Tensor]
) -> Curve | None:
    """Fit the curve to the rows of all ranks; equal on all ranks, None with fewer than 2 * BIN_ROWS rows.

    Args:
        logits_N, labels_N, weights_N: rows of this rank, float64; rows whose logit is not finite are ignored.
        all_reduce: sums a tensor over ranks.
    """
    good_N = logits_N.isfinite()
    logits_N, labels_N, weights_N = logits_N[good_N], labels_N[good_N], weights_N[good_N]
    cell_N = cells_of(logits_N)  # ranks can add cells, but cannot sort their rows together
    columns = torch.ones_like(logits_N), weights_N, weights_N * labels_N, weights_N * logits_N
    bins = _bins(all_reduce(sums_by(cell_N, CELLS, *columns)).numpy())
    if bins is None:
        return None
    weight_B, clicks_B, logit_B = bins
    expected_B = PSEUDO_ROWS / (1 + np.exp(-logit_B))
    rates_B, counts_B = (clicks_B + expected_B) / (weight_B + PSEUDO_ROWS), weight_B + PSEUDO_ROWS
    block_B = pool_adjacent_violators(rates_B, counts_B)
    count_J = np.bincount(block_B, counts_B)
    rate_J, knot_J = (np.bincount(block_B, counts_B * each) / count_J for each in (rates_B, logit_B))
    rate_J = rate_J.clip(_LEAST_RATE, 1 - _LEAST_RATE)
    return _curve_through(knot_J, np.log(rate_J / (1 - rate_J)))


def sums_by(group_N: Tensor, groups: int, *columns: Tensor) -> Tensor:
    """Sums of columns by group, float64 [columns, groups]."""
    # Without rows bincount returns int64, but all ranks must reduce tensors of the same type.
    return torch.stack([torch.bincount(group_N, each_N, groups).double() for each_N in columns])


def _bins(sums: Floats) -> tuple[Floats, Floats, Floats] | None:
    """Weight, clicks and mean logit of bins of equal count; None with fewer than 2 * BIN_ROWS rows.

    Args:
        sums: rows, weight, clicks and weighted logits of each cell, [4, CELLS].
    """
    sums = sums[:, sums[1] > 0]
    rows = sums[0].sum()
    bins = int(min(MOST_BINS, rows // BIN_ROWS))
    if bins < 2:
        return None
    sums = np.concatenate([sums[:1], sums[1:] * (rows / sums[1].sum())])  # weights of mean 1, like pseudo-rows
    before = sums[0].cumsum() - sums[0]
    number = np.unique((before * bins / rows).astype(np.int64), return_inverse=True)[1]
    weight_B, clicks_B, logits_B = (np.bincount(number, each).astype(np.float64) for each in sums[1:])
    return weight_B, clicks_B, logits_B / weight_B


def pool_adjacent_violators(values: Floats, weights: Floats) -> NDArray[np.int64]:
    """Number of the block of each element in the weighted least squares fit by a non-decreasing sequence.

    The fit is the weighted mean of each block; means increase from block to block.
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight and number of elements
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        places = 1
        while blocks and blocks[-1][0] >= value:
            mean, other, more = blocks.pop()
            value = (mean * other + value * weight) / (other + weight)
            weight, places = weight + other, places + more
        blocks.append((value, weight, places))
    return np.repeat(np.arange(len(blocks)), [places for *_, places in blocks])


def _curve_through(knot_J: Floats, value_J: Floats) -> Curve:
    """The curve through points, without those that are too close to the previous one, with LEAST_SLOPE at least."""
    kept = [0]
    for place in range(1, len(knot_J)):
        if knot_J[place] >= knot_J[kept[-1]] + LEAST_DISTANCE:
            kept.append(place)
    knot_J, value_J = knot_J[kept], value_J[kept]
    value_J = np.maximum.accumulate(value_J - LEAST_SLOPE * knot_J) + LEAST_SLOPE * knot_J
    return Curve(torch.from_numpy(knot_J), torch.from_numpy(value_J))
