"""The outer gradient: the mean over ranks of theta~ - theta, dense parameters and touched embedding rows."""

import torch
from torch import Tensor

from mamdr_core.engine.parameters import Change, Rows
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.owner_exchange import OwnerExchange


def mean_change(
    collective: Collective, change: Change, weight: float, sharded: bool = False, touched_only: bool = True
) -> Change:
    """Weighted mean over ranks, equal on all ranks; of sharded tables each rank gets the mean of the rows that it owns.

    Dense parameters take one all-reduce of a flat buffer. If all weights are zero, the changes are zero.

    Args:
        collective: the ranks.
        change: theta~ - theta of this rank, or a gradient.
        weight: its weight, such as the sum of its sample weights; 0 without rows.
        sharded: send embedding rows only to their owners, by all-to-all.
        touched_only: average an embedding row over the ranks that touched it, so that ranks without rows of an item do
            not shrink its change. Otherwise average over all ranks, with zero for those that lack the row: this gives
            the gradient of the mean loss over all rows from the gradients of the mean losses of ranks.
    """
    if collective.size == 1:
        return change
    dense = change.dense
    flat = collective.all_reduce(torch.cat([dense * weight, dense.new_tensor([weight])]))
    tiny = torch.finfo(flat.dtype).tiny  # avoids 0 / 0 if all weights are zero
    total = flat[-1].clamp_min(tiny)
    rows = {}
    for table in sorted(change.rows):
        own = change.rows[table]
        weighted = torch.cat([own.values * weight, torch.full_like(own.values[:, :1], weight)], dim=1)
        ids, received = _send(collective, own.ids, weighted, to_owners=sharded)
        distinct, place = ids.unique(return_inverse=True)
        summed = received.new_zeros(len(distinct), received.shape[1]).index_add_(0, place, received)
        rows[table] = Rows(distinct, summed[:, :-1] / (summed[:, -1:].clamp_min(tiny) if touched_only else total))
    return Change(flat[:-1] / total, rows)


def _send(collective: Collective, ids: Tensor, weighted: Tensor, to_owners: bool) -> tuple[Tensor, Tensor]:
    """Ids and weighted changes of all ranks in rank order: of all rows, or of the rows that this rank owns."""
    if not to_owners:
        return collective.all_gather(ids), collective.all_gather(weighted)
    exchange = OwnerExchange(ids, collective)
    return exchange.requested_M, exchange.send(weighted)
