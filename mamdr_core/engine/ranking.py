"""Ranking metrics per user and domain: AUC, NDCG@k and hit rate@k of all groups in one segmented pass.

A group consists of the rows of one user in one domain. Groups of one class are ignored, as in GAUC (Zhou et al. 2018,
DIN, section 6.2).

Shape suffixes: N rows, M rows of known users, n domains, G groups, K cutoffs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mamdr_core.engine.segments import Runs, prefix, runs_of


@dataclass(frozen=True)
class Groups:
    """Rows grouped by domain and user.

    Attributes:
        rows_M: positions of the rows of known users, sorted by group, int64 [M].
        counts_G: number of rows of each group, int64 [G].
        domain_G: domain of each group, ascending, int64 [G].
    """

    rows_M: Tensor
    counts_G: Tensor
    domain_G: Tensor


def groups_of(ids_N: Tensor, counts_n: Tensor) -> Groups:
    """Group rows by domain and id.

    Args:
        ids_N: ids of users, or of another column, of at most 32 bits; rows of the unknown id 0 are in no group.
        counts_n: number of rows of each domain, by which rows are sorted, int64 [n].
    """
    key_N = (torch.repeat_interleave(counts_n) << 32) + ids_N.long()
    known_M = (ids_N > 0).nonzero().squeeze(1)
    key_M = key_N[known_M]
    order_M = _argsort(key_M)
    groups_G, rows_G = torch.unique_consecutive(key_M[order_M], return_counts=True)
    return Groups(known_M[order_M], rows_G, groups_G >> 32)


@dataclass(frozen=True)
class GroupFigures:
    """Metrics of the groups that have rows of both classes.

    Attributes:
        domain_G: domain of each group, ascending, int64 [G].
        rows_G: number of rows of each group, float64 [G].
        auc_G: exact AUC, float64 [G].
        ndcg_KG: NDCG at each cutoff, float64 [K, G].
        hit_KG: hit rate at each cutoff, float64 [K, G].
    """

    domain_G: Tensor
    rows_G: Tensor
    auc_G: Tensor
    ndcg_KG: Tensor
    hit_KG: Tensor


def group_figures(scores_N: Tensor, labels_N: Tensor, groups: Groups, cutoffs: Sequence[int]) -> GroupFigures:
    """Compute the metrics of groups; they are means over all orders of rows with equal scores.

    Args:
        scores_N: float [N].
        labels_N: 0. or 1., [N], on the device of the scores.
        groups: groups of the rows.
        cutoffs: values of k for NDCG@k and hit rate@k.
    """
    runs = runs_of(scores_N[groups.rows_M], labels_N[groups.rows_M], groups.counts_G)
    auc_G = runs.auc()
    known_G = (~auc_G.isnan()).nonzero().squeeze(1)
    empty = auc_G.new_zeros(0, len(known_G))
    return GroupFigures(
        domain_G=groups.domain_G[known_G],
        rows_G=groups.counts_G[known_G].double(),
        auc_G=auc_G[known_G],
        ndcg_KG=torch.stack([_ndcg(runs, k)[known_G] for k in cutoffs]) if cutoffs else empty,
        hit_KG=torch.stack([_hits(runs, known_G, k) for k in cutoffs]) if cutoffs else empty,
    )


def _ndcg(runs: Runs, k: int) -> Tensor:
    """NDCG@k of each segment, float64 [G], NaN without a positive; equal scores have the mean of their discounts."""
    places = torch.arange(2, k + 2, dtype=torch.float64, device=runs.edges_R.device)
    discounts = prefix(1 / places.log2())  # sums over the first 0, 1, ... k positions
    runs_G = runs.first_n.diff()
    end_R = torch.repeat_interleave(runs.bounds_n[1:], runs_G)
    above_R, upto_R = end_R - runs.edges_R[1:], end_R - runs.edges_R[:-1]  # positions before a run, and including it
    shares_R = runs.positives_R.diff().double() / runs.edges_R.diff()
    gains_R = shares_R * (discounts[upto_R.clamp(max=k)] - discounts[above_R.clamp(max=k)])
    gain_G = torch.segment_reduce(gains_R, "sum", lengths=runs_G, unsafe=True)
    return gain_G / discounts[runs.positives().clamp(max=k)]


def _hits(runs: Runs, known_G: Tensor, k: int) -> Tensor:
    """The probability that the k highest rows of a segment contain a positive, for segments with positives, float64.

    All orders of equal scores have the same probability. If t of the m rows of a run with c positives are among the k
    highest, none of them is positive with the probability that t draws without replacement hit the other m - c.
    """
    with_positives = (runs.positives_R.diff() > 0).nonzero().squeeze(1)
    highest_G = with_positives[torch.searchsorted(with_positives, runs.first_n[1:][known_G]) - 1]
    start_G, end_G = runs.edges_R[highest_G], runs.edges_R[highest_G + 1]
    rows_G, positives_G = end_G - start_G, runs.positives_R[highest_G + 1] - runs.positives_R[highest_G]
    places_G = k - (runs.bounds_n[1:][known_G] - end_G)  # positions among the k highest that are left for this run
    hits_G = (places_G >= rows_G).double()
    part = ((places_G > 0) & (places_G < rows_G)).nonzero().squeeze(1)
    rows, others, places = rows_G[part], (rows_G - positives_G)[part], places_G[part]
    missed = torch.ones(len(part), dtype=torch.float64, device=hits_G.device)
    for drawn in range(min(k, int(places.max())) if len(part) else 0):
        chance = (others - drawn).clamp(min=0).double() / (rows - drawn)
        missed = torch.where(drawn < places, missed * chance, missed)
    hits_G[part] = 1 - missed
    return hits_G


def _argsort(key_M: Tensor) -> Tensor:
    """The permutation that sorts keys; on the CPU by numpy, which is faster than torch."""
    if key_M.device.type == "cpu":
        return torch.from_numpy(np.argsort(key_M.numpy(), kind="stable"))
    return torch.argsort(key_M, stable=True)
