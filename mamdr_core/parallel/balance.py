"""Assigns the batches of a round to ranks so that all ranks have nearly equal numbers of steps and rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mamdr_core.engine.steps import ranges
from mamdr_core.parallel.placement import room_below_level

Ints = NDArray[np.int64]
SLACK = 0.03
"""Tolerated excess over the mean of a round; a smaller excess is not worth sending."""


@dataclass(frozen=True)
class Batches:
    """The U batches of the slices of a round, by domain and in the order of rows.

    Attributes:
        domain_U: domain of the rows.
        start_U, stop_U: range within the rows of the domain.
        owner_U: rank that owns the domain.
        holder_U: rank that trains on the batch.
    """

    domain_U: Ints
    start_U: Ints
    stop_U: Ints
    owner_U: Ints
    holder_U: Ints

    @property
    def sizes(self) -> Ints:
        """Rows of each batch, int64 [U]."""
        return self.stop_U - self.start_U

    @property
    def lent(self) -> NDArray[np.bool_]:
        """Mask of the batches whose holder is not their owner, [U]."""
        lent_U: NDArray[np.bool_] = self.owner_U != self.holder_U
        return lent_U


def balance_ranks(start_n: Ints, stop_n: Ints, owner_n: Ints, ranks: int, batch_size: int) -> Batches:
    """Cut the slices of a round into batches and move batches from overloaded to underloaded ranks.

    Steps are balanced with the smallest batches, which have the fewest rows to send per step, and rows with the largest
    batches, which add the fewest steps. The two alternate, since each slightly disturbs the other. A rank keeps up to
    the mean plus `SLACK`, rounded up to whole steps, or one batch.

    Args:
        start_n, stop_n: slice of the round per domain (`RoundPlan.slices`), int64 [n].
        owner_n: rank of each domain, int64 [n].
        ranks: world size W.
        batch_size: maximum number of rows of a step.

    Returns:
        All batches of the round. Equal inputs give equal batches on every machine.
    """
    visited_V = np.flatnonzero(stop_n > start_n)
    size_V = (stop_n - start_n)[visited_V]
    count_V = -(-size_V // batch_size)
    domain_U, size_U, count_U = (np.repeat(each_V, count_V) for each_V in (visited_V, size_V, count_V))
    number_U = ranges(np.zeros_like(count_V), count_V)
    begin_U = start_n[domain_U]
    start_U, stop_U = (begin_U + number * size_U // count_U for number in (number_U, number_U + 1))
    owner_U = owner_n[domain_U]
    holder_U = owner_U.copy()
    rows_U = stop_U - start_U
    one_U = np.ones_like(rows_U)
    by_steps, by_rows = (one_U, rows_U), (rows_U, -rows_U)
    for cost_U, preference_U in (by_steps, by_rows, by_steps, by_rows, by_steps):
        _even_out(holder_U, cost_U, preference_U, ranks)
    return Batches(domain_U, start_U, stop_U, owner_U, holder_U)


def _even_out(holder_U: Ints, cost_U: Ints, preference_U: Ints, ranks: int) -> None:
    """Move batches from ranks above the mean to ranks below it, in place.

    Args:
        holder_U: rank of each batch.
        cost_U: the quantity to balance.
        preference_U: batches of a rank with the smallest values move first.
        ranks: world size W.
    """
    if not len(holder_U):
        return
    load_W: NDArray[np.float64] = np.bincount(holder_U, weights=cost_U, minlength=ranks).astype(np.float64)
    # Whole steps: with a mean of 1.5, a rank keeps 2 steps.
    kept = np.ceil(max(load_W.mean() * (1 + SLACK), cost_U.max()))
    excess_W = np.maximum(load_W - kept, 0.0)
    candidates = np.flatnonzero(excess_W[holder_U] > 0)
    if not len(candidates):
        return
    candidates = candidates[np.lexsort((preference_U[candidates], holder_U[candidates]))]  # stable: equal on all ranks
    cost_C, holder_C = cost_U[candidates].astype(np.float64), holder_U[candidates]
    before_C = cost_C.cumsum() - cost_C
    first_of_rank = np.searchsorted(holder_C, holder_C)
    moves_C = before_C - before_C[first_of_rank] < excess_W[holder_C]
    moved, cost_M = candidates[moves_C], cost_C[moves_C]
    takers = np.flatnonzero(excess_W == 0)
    room = room_below_level(load_W[takers], cost_M.sum())
    takers, room = takers[room > 0], room[room > 0]
    middle_M = cost_M.cumsum() - cost_M / 2
    holder_U[moved] = takers[np.minimum(np.searchsorted(room.cumsum(), middle_M), len(takers) - 1)]
