"""Rows of many segments sorted by score in one pass, on the scores' device: what exact AUCs are counted from.

Shape suffixes: N rows, n segments, R runs of equal scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mamdr_core.engine.plan import domain_parts

PART_ROWS = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Rows measured at once, unless one domain has more: on the CPU what caches hold, on CUDA what takes less than 1 GB."""
_SEGMENT_BIT = 33  # below it in a key: 32 bits of score and one of label


def parts(offsets: Tensor, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """The rows of some segments at a time, and their number by segment, on `device`."""
    offsets = offsets.cpu()
    for first, last in domain_parts(offsets.numpy(), PART_ROWS[device.type]):
        start, stop = offsets[[first, last]].tolist()
        yield slice(start, stop), offsets[first : last + 1].diff().to(device)


@dataclass(frozen=True)
class Runs:
    """Rows in ascending order of segment and score, in runs: a run is of equal scores in one segment.

    Attributes:
        edges_R: the row that each run begins at, and N at the end, int64 [R + 1].
        positives_R: rows of label 1 before each of these, int64 [R + 1].
        scores_R: the score of each run, float64 [R].
        bounds_n: the row that each segment begins at, and N at the end, int64 [n + 1].
        first_n: the run that each segment begins at, and R at the end, int64 [n + 1].
        bad_n: whether a score of the segment is not finite, [n].
    """

    edges_R: Tensor
    positives_R: Tensor
    scores_R: Tensor
    bounds_n: Tensor
    first_n: Tensor
    bad_n: Tensor

    def positives(self) -> Tensor:
        """Rows of label 1 by segment, int64 [n]."""
        return self.positives_R[self.first_n].diff()

    def auc(self) -> Tensor:
        """The statistic of Mann and Whitney (1947), counted in integers, ties counted half.

        Returns:
            float64 [n]; NaN for a segment of one class, or with a score that is not finite.
        """
        negatives_R = self.edges_R - self.positives_R
        # A positive beats the negatives before its run and half of those in it: twice that, summed over all runs so
        # far. Negatives of earlier segments are counted too, and taken off below.
        twice_R = prefix(self.positives_R.diff() * (negatives_R[1:] + negatives_R[:-1]))
        before_n, counts_n = self.positives_R[self.first_n], self.bounds_n.diff()
        positives_n = before_n.diff()
        twice_n = twice_R[self.first_n].diff() - 2 * positives_n * (self.bounds_n - before_n)[:-1]
        auc_n = (
            twice_n.double() / (2 * positives_n * (counts_n - positives_n)).double()
        )  # 0 / 0 where there is one class
        auc_n[self.bad_n] = torch.nan
        return auc_n


def runs_of(scores_N: Tensor, labels_N: Tensor, counts_n: Tensor) -> Runs:
    """Sort rows by one integer of segment, score and label, so that nothing but this key is moved.

    Args:
        scores_N: sorted by segment, any float [N].
        labels_N: 0. or 1., [N].
        counts_n: rows by segment, int64 [n].
    """
    segments_N = torch.repeat_interleave(counts_n)
    ordinals_N, levels = _ordinals(scores_N)
    key_N = _sort((segments_N << _SEGMENT_BIT) + (ordinals_N << 1) + labels_N.long())
    positives_N = prefix(key_N & 1)
    # One run begins at row 0, and the last one ends at row N.
    value_N = key_N >> 1
    edge = torch.ones(len(key_N) + 1, dtype=torch.bool, device=key_N.device)
    torch.ne(value_N[1:], value_N[:-1], out=edge[1:-1])
    edges_R = edge.nonzero().squeeze(1)
    bounds_n = prefix(counts_n)
    first_n = torch.searchsorted(edges_R, bounds_n)
    bad_n = torch.zeros_like(counts_n, dtype=torch.bool)
    bad_n[segments_N[~scores_N.isfinite()]] = True
    ordinals_R = value_N[edges_R[:-1]] - (torch.repeat_interleave(first_n.diff()) << (_SEGMENT_BIT - 1))
    scores_R = _scores(ordinals_R) if levels is None else levels[ordinals_R]
    return Runs(edges_R, positives_N[edges_R], scores_R, bounds_n, first_n, bad_n)


def prefix(values: Tensor) -> Tensor:
    """Sums of the values before each position and of all, [len + 1]."""
    sums = values.new_zeros(len(values) + 1)
    torch.cumsum(values, 0, out=sums[1:])
    return sums


def _ordinals(scores_N: Tensor) -> tuple[Tensor, Tensor | None]:
    """Integers of at most 32 bits, int64 [N], that are ordered and equal as the scores are; the scores of these.

    The latter are None for scores of at most 32 bits, which `_scores` makes from the integers alone.
    """
    if scores_N.dtype == torch.float64:  # places among the distinct scores
        known_N = scores_N.nan_to_num()  # a NaN, which has no place, must not upset the order of other segments
        if known_N.device.type == "cpu":
            levels, places = np.unique(known_N.numpy(), return_inverse=True)
            return torch.from_numpy(places), torch.from_numpy(levels)
        levels_N, places_N = torch.unique(known_N, return_inverse=True)
        return places_N, levels_N
    bits_N = (scores_N.float() + 0.0).view(torch.int32)  # adding 0 makes -0. a 0., which it equals
    return _flipped(bits_N).long(), None


def _scores(ordinals_R: Tensor) -> Tensor:
    """The scores, float64 [R], that `_ordinals` makes these integers of."""
    return _flipped(ordinals_R.int()).view(torch.float32).double()


def _flipped(bits: Tensor) -> Tensor:
    """The bits of float32 as ordered integers, and back: a greater magnitude is less where the sign is minus."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _sort(key_N: Tensor) -> Tensor:
    """Ascending, in place where that is possible; on the CPU by numpy, seven times as fast as torch at this."""
    if key_N.device.type == "cpu":
        key_N.numpy().sort()
        return key_N
    return torch.sort(key_N).values
