"""Exact AUC, logloss, mean prediction and calibration of all domains in one segmented pass, on the scores' device.

Shape suffixes: N rows, n domains.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine.plan import domain_parts
from mamdr_core.engine.threads import one_thread

PART_ROWS = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Rows measured at once, unless one domain has more: on the CPU what caches hold, on CUDA what takes less than 1 GB."""
_SEGMENT_BIT = 33  # below it in a key: 32 bits of score and one of label


@dataclass
class DomainMetrics:
    """Figures by domain, all float64 [n]; NaN where a figure is not defined (no rows; for AUC, one class only).

    Attributes:
        rows: examples.
        clicks: examples with label 1.
        auc: exact area under the ROC curve, ties counted half.
        logloss: mean negative log-likelihood.
        mean_prediction: mean predicted probability.
        oracle_auc: AUC of the true probabilities, where the log knows them.
    """

    rows: Tensor
    clicks: Tensor
    auc: Tensor
    logloss: Tensor
    mean_prediction: Tensor
    oracle_auc: Tensor

    @property
    def calibration(self) -> Tensor:
        """Mean prediction over CTR, float64 [n]: above 1 the model promises too much; NaN without a click."""
        return torch.where(self.clicks > 0, self.mean_prediction * self.rows / self.clicks, torch.nan)

    def mean_auc(self) -> float:
        """Mean AUC over the domains that have one (the paper's metric); NaN if none has."""
        return self.auc[~self.auc.isnan()].mean().item()

    def weighted_auc(self) -> float:
        """Mean AUC over the same domains, weighted by their rows."""
        known = ~self.auc.isnan()
        return ((self.auc * self.rows)[known].sum() / self.rows[known].sum()).item()


@one_thread()
def domain_metrics(
    logits_N: Tensor, labels_N: Tensor, offsets: Tensor, true_probability_N: Tensor | None
) -> DomainMetrics:
    """Measure rows that are sorted by domain, where the logits lie; a domain's figures depend on its own rows alone.

    Args:
        logits_N: scores, float [N].
        labels_N: 0. or 1., [N].
        offsets: where each domain's rows begin, int64 [n + 1].
        true_probability_N: float64 [N], or None.

    Returns:
        Figures on the CPU.
    """
    device = logits_N.device
    figures = [torch.zeros(5, 0, dtype=torch.float64, device=device)]
    for rows, counts_n in _parts(offsets, device):
        x_N, y_N = logits_N[rows].double(), labels_N[rows].to(device).double()
        losses_N = binary_cross_entropy_with_logits(x_N, y_N, reduction="none")
        # Not index_add_, whose order of adding varies on CUDA.
        sums = [torch.segment_reduce(each_N, "sum", lengths=counts_n) for each_N in (y_N, losses_N, x_N.sigmoid())]
        oracle_n = torch.full_like(sums[0], torch.nan)
        if true_probability_N is not None:
            oracle_n = _part_auc(true_probability_N[rows].to(device), y_N, counts_n)
        figures.append(torch.stack([*sums, _part_auc(logits_N[rows], y_N, counts_n), oracle_n]))
    clicks_n, loss_n, prediction_n, auc_n, oracle_n = torch.cat(figures, 1).cpu()
    rows_n = offsets.diff().double().cpu()
    return DomainMetrics(
        rows=rows_n,
        clicks=clicks_n,
        auc=auc_n,
        logloss=loss_n / rows_n,
        mean_prediction=prediction_n / rows_n,
        oracle_auc=oracle_n,
    )


@one_thread()
def segmented_auc(scores_N: Tensor, labels_N: Tensor, offsets: Tensor) -> Tensor:
    """Exact AUC of every segment: the statistic of Mann and Whitney (1947), counted in integers, ties counted half.

    Rows are sorted by one integer of segment, score and label, so that nothing but this key is moved.

    Args:
        scores_N: sorted by segment, any float [N].
        labels_N: 0. or 1., [N].
        offsets: where each segment begins, int64 [n + 1].

    Returns:
        float64 [n], on the CPU; NaN for a segment of one class, or with a score that is not finite.
    """
    auc_n = [torch.zeros(0, dtype=torch.float64, device=scores_N.device)]
    for rows, counts_n in _parts(offsets, scores_N.device):
        auc_n.append(_part_auc(scores_N[rows], labels_N[rows].to(scores_N.device), counts_n))
    return torch.cat(auc_n).cpu()


def _parts(offsets: Tensor, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """The rows of some segments at a time, and their number by segment, on `device`."""
    offsets = offsets.cpu()
    for first, last in domain_parts(offsets.numpy(), PART_ROWS[device.type]):
        start, stop = offsets[[first, last]].tolist()
        yield slice(start, stop), offsets[first : last + 1].diff().to(device)


def _part_auc(scores_N: Tensor, labels_N: Tensor, counts_n: Tensor) -> Tensor:
    """`segmented_auc` of rows that are sorted at once."""
    segments_N = torch.repeat_interleave(counts_n)
    key_N = _sort((segments_N << _SEGMENT_BIT) + (_ordinal(scores_N) << 1) + labels_N.long())
    positives_N = _prefix(key_N & 1)
    # A run is of equal scores in one segment; one begins at row 0, and the last one ends at row N.
    value_N = key_N >> 1
    edge = torch.ones(len(key_N) + 1, dtype=torch.bool, device=key_N.device)
    torch.ne(value_N[1:], value_N[:-1], out=edge[1:-1])
    edges_R = edge.nonzero().squeeze(1)
    positives_R = positives_N[edges_R]
    negatives_R = edges_R - positives_R
    # A positive beats the negatives before its run and half of those in it: twice that, summed over all runs so far.
    # Negatives of earlier segments are counted too, and taken off below.
    twice_R = _prefix(positives_R.diff() * (negatives_R[1:] + negatives_R[:-1]))
    bounds_n1 = _prefix(counts_n)
    run_n1 = torch.searchsorted(edges_R, bounds_n1)
    before_n1 = positives_R[run_n1]
    positives_n = before_n1.diff()
    twice_n = twice_R[run_n1].diff() - 2 * positives_n * (bounds_n1 - before_n1)[:-1]
    auc_n = twice_n.double() / (2 * positives_n * (counts_n - positives_n)).double()  # 0 / 0 where there is one class
    auc_n[segments_N[~scores_N.isfinite()]] = torch.nan
    return auc_n


def _ordinal(scores_N: Tensor) -> Tensor:
    """Integers of at most 32 bits, int64 [N], that are ordered and equal as the scores are."""
    if scores_N.dtype == torch.float64:  # places among the distinct scores
        known_N = scores_N.nan_to_num()  # a NaN, which has no place, must not upset the order of other segments
        if known_N.device.type == "cpu":
            return torch.from_numpy(np.unique(known_N.numpy(), return_inverse=True)[1])
        places_N: Tensor = torch.unique(known_N, return_inverse=True)[1]
        return places_N
    bits_N = (scores_N.float() + 0.0).view(torch.int32)  # adding 0 makes -0. a 0., which it equals
    return (bits_N ^ ((bits_N >> 31) & 0x7FFFFFFF)).long()  # a greater magnitude is less where the sign is minus


def _sort(key_N: Tensor) -> Tensor:
    """Ascending, in place where that is possible; on the CPU by numpy, seven times as fast as torch at this."""
    if key_N.device.type == "cpu":
        key_N.numpy().sort()
        return key_N
    return torch.sort(key_N).values


def _prefix(counts: Tensor) -> Tensor:
    """Sums of the values before each position and of all, int64 [len + 1]."""
    sums = counts.new_zeros(len(counts) + 1)
    torch.cumsum(counts, 0, out=sums[1:])
    return sums
