"""Rows of many segments, sorted by score in one pass on the device of the scores, for exact AUCs.

Shape suffixes: N rows, n segments, R runs of equal scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mamdr_core.engine.plan import domain_parts

PART_ROWS = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Maximum number of rows of a part, unless a domain has more: the size of caches on a CPU, below 1 GB on CUDA."""
_SEGMENT_BIT = 33  # below it in a key: 32 bits of score and one of label


def parts(offsets: Tensor, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Split segments into parts: yields the slice of rows, and the number of rows of each segment on `device`."""
    offsets = offsets.cpu()
    for first, last in domain_parts(offsets.numpy(), PART_ROWS[device.type]):
        start, stop = offsets[[first, last]].tolist()
        yield slice(start, stop), offsets[first : last + 1].diff().to(device)


@dataclass(frozen=True)
class Runs:
    """Rows sorted by segment and score, as runs: a run consists of the rows of a segment with equal scores.

    Attributes:
        edges_R: first row of each run, and N, int64 [R + 1].
        positives_R: number of rows of label 1 before each edge, int64 [R + 1].
        scores_R: score of each run, float64 [R].
        bounds_n: first row of each segment, and N, int64 [n + 1].
        first_n: first run of each segment, and R, int64 [n + 1].
        bad_n: whether a score of the segment is not finite, bool [n].
    """

    edges_R: Tensor
    positives_R: Tensor
    scores_R: Tensor
    bounds_n: Tensor
    first_n: Tensor
    bad_n: Tensor

    def positives(self) -> Tensor:
        """Number of rows of label 1 of each segment, int64 [n]."""
        return self.positives_R[self.first_n].diff()

    def auc(self) -> Tensor:
        """Exact AUC of each segment: the statistic of Mann and Whitney (1947), counted in integers; ties count half.

        Returns:
            float64 [n]; NaN for a segment of one class, or with a score that is not finite.
        """
        negatives_R = self.edges_R - self.positives_R
        # A positive wins against the negatives before its run and half of those in it. This is twice the number of
        # wins up to each run; it includes negatives of earlier segments, which are subtracted below.
        twice_R = prefix(self.positives_R.diff() * (negatives_R[1:] + negatives_R[:-1]))
        before_n, counts_n = self.positives_R[self.first_n], self.bounds_n.diff()
        positives_n = before_n.diff()
        twice_n = twice_R[self.first_n].diff() - 2 * positives_n * (self.bounds_n - before_n)[:-1]
        pairs_n = positives_n * (counts_n - positives_n)
        auc_n = twice_n.double() / (2 * pairs_n).double()  # 0 / 0 for a single class
        auc_n[self.bad_n] = torch.nan
        return auc_n


def runs_of(scores_N: Tensor, labels_N: Tensor, counts_n: Tensor) -> Runs:
    """Sort rows by one integer that contains segment, score and label, so that only this key is sorted.

    Args:
        scores_N: scores sorted by segment, float [N].
        labels_N: 0. or 1., [N].
        counts_n: number of rows of each segment, int64 [n].
    """
    segments_N = torch.repeat_interleave(counts_n)
    ordinals_N, levels = _ordinals(scores_N)
    key_N = _sort((segments_N << _SEGMENT_BIT) + (ordinals_N << 1) + labels_N.long())
    positives_N = prefix(key_N & 1)
    # A run begins at row 0, and the last run ends at row N.
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
    """Prefix sums, starting with 0, [len + 1]."""
    sums = values.new_zeros(len(values) + 1)
    torch.cumsum(values, 0, out=sums[1:])
    return sums


def _ordinals(scores_N: Tensor) -> tuple[Tensor, Tensor | None]:
    """Integers of at most 32 bits, int64 [N], with the order of the scores, and the scores by integer.

    The latter are None for scores of at most 32 bits, which `_scores` computes from the integers.
    """
    if scores_N.dtype == torch.float64:  # positions among the distinct scores
        known_N = scores_N.nan_to_num()  # NaN has no order and would affect other segments
        if known_N.device.type == "cpu":
            levels, places = np.unique(known_N.numpy(), return_inverse=True)
            return torch.from_numpy(places), torch.from_numpy(levels)
        levels_N, places_N = torch.unique(known_N, return_inverse=True)
        return places_N, levels_N
    bits_N = (scores_N.float() + 0.0).view(torch.int32)  # adding 0 turns -0. into 0.
    return _flipped(bits_N).long(), None


def _scores(ordinals_R: Tensor) -> Tensor:
    """The inverse of `_ordinals` for scores of at most 32 bits, float64 [R]."""
    return _flipped(ordinals_R.int()).view(torch.float32).double()


def _flipped(bits: Tensor) -> Tensor:
    """Convert the bits of float32 to integers with the same order, or back, by inverting those of negative numbers."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _sort(key_N: Tensor) -> Tensor:
    """Sort keys, possibly in place; on the CPU by numpy, which is seven times as fast as torch."""
    if key_N.device.type == "cpu":
        key_N.numpy().sort()
        return key_N
    return torch.sort(key_N).values
