"""Exact AUC, logloss and mean prediction of all domains in one segmented pass."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


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

    def mean_auc(self) -> float:
        """Mean AUC over the domains that have one (the paper's metric); NaN if none has."""
        return self.auc[~self.auc.isnan()].mean().item()

    def weighted_auc(self) -> float:
        """Mean AUC over the same domains, weighted by their rows."""
        known = ~self.auc.isnan()
        return ((self.auc * self.rows)[known].sum() / self.rows[known].sum()).item()


def domain_metrics(
    logits_N: Tensor, labels_N: Tensor, offsets: Tensor, true_probability_N: Tensor | None
) -> DomainMetrics:
    """Measure rows that are sorted by domain.

    Args:
        logits_N: scores, float [N].
        labels_N: 0. or 1., [N].
        offsets: where each domain's rows begin, int64 [n + 1].
        true_probability_N: float64 [N], or None.
    """
    rows_n = offsets.diff().double()
    domains_N = torch.repeat_interleave(torch.arange(len(rows_n)), offsets.diff())
    labels_N = labels_N.double().cpu()
    scores_N = logits_N.double().cpu()

    def sums(values_N: Tensor) -> Tensor:
        return torch.zeros(len(rows_n), dtype=torch.float64).index_add_(0, domains_N, values_N)

    losses_N = binary_cross_entropy_with_logits(scores_N, labels_N, reduction="none")
    oracle = None if true_probability_N is None else segmented_auc(true_probability_N, labels_N, offsets)
    return DomainMetrics(
        rows=rows_n,
        clicks=sums(labels_N),
        auc=segmented_auc(scores_N, labels_N, offsets),
        logloss=sums(losses_N) / rows_n,
        mean_prediction=sums(scores_N.sigmoid()) / rows_n,
        oracle_auc=torch.full_like(rows_n, torch.nan) if oracle is None else oracle,
    )


def segmented_auc(scores_N: Tensor, labels_N: Tensor, offsets: Tensor) -> Tensor:
    """Exact AUC of every segment, by the rank-sum statistic with mean ranks for ties (Mann and Whitney 1947).

    Args:
        scores_N: sorted by segment, any float [N].
        labels_N: 0. or 1., float64 [N].
        offsets: where each segment begins, int64 [n + 1].

    Returns:
        float64 [n]; NaN for a segment of one class, or with a score that is not finite.
    """
    counts_n = offsets.diff()
    segments_N = torch.repeat_interleave(torch.arange(len(counts_n)), counts_n)
    by_score = torch.sort(scores_N, stable=True).indices
    order = by_score[torch.sort(segments_N[by_score], stable=True).indices]
    scores_N, labels_N = scores_N[order], labels_N.double()[order]
    if not len(scores_N):
        return torch.full((len(counts_n),), torch.nan, dtype=torch.float64)
    starts_N = torch.ones(len(scores_N), dtype=torch.bool)
    starts_N[1:] = (scores_N[1:] != scores_N[:-1]) | (segments_N[1:] != segments_N[:-1])
    tie_N = starts_N.cumsum(0) - 1
    tie_start = starts_N.nonzero().squeeze(1)
    tie_stop = torch.cat([tie_start[1:], torch.tensor([len(scores_N)])])
    mean_rank_N = ((tie_start + tie_stop + 1).double() / 2)[tie_N] - offsets[segments_N]
    positives_n = torch.zeros(len(counts_n), dtype=torch.float64).index_add_(0, segments_N, labels_N)
    ranks_n = torch.zeros_like(positives_n).index_add_(0, segments_N, mean_rank_N * labels_N)
    negatives_n = counts_n - positives_n
    ranks_n[segments_N[~scores_N.isfinite()]] = torch.nan
    return (ranks_n - positives_n * (positives_n + 1) / 2) / (positives_n * negatives_n)
