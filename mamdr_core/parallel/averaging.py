"""The outer gradient: the mean over ranks of theta~ - theta, dense parameters and touched embedding rows."""

import torch
from torch import Tensor

from mamdr_core.engine.parameters import Change, Rows
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.sharded import by_owner


def mean_change(
    collective: Collective, change: Change, weight: float, sharded: bool = False, touched_only: bool = True
) -> Change:
    """Weighted mean over ranks, the same on all of them; of sharded tables each rank has the mean of its own rows.

    Dense parameters: one all-reduce of one flat buffer. All ranks' weights zero: changes of zero, of the rows that any
    rank has.

    Args:
        collective: the ranks.
        change: this rank's theta~ - theta, or a gradient.
        weight: its weight, such as the sum of its rows' sample weights; 0 without rows.
        sharded: embedding rows go to their owners alone, by all-to-all.
        touched_only: an embedding row's mean is over the ranks that touched it, since a rank without rows of an item
            knows nothing of it and must not hold it back; else over all ranks, with zero where a rank lacks it: the
            gradient of the mean loss over all ranks' rows, from the gradients of their own mean losses.
    """
    if collective.size == 1:
        return change
    dense = change.dense
    flat = collective.all_reduce(torch.cat([dense * weight, dense.new_tensor([weight])]))
    tiny = torch.finfo(flat.dtype).tiny  # of weights that are all zero, changes of zero are the mean
    total = flat[-1].clamp_min(tiny)
    rows = {}
    for table in sorted(change.rows):
        own = change.rows[table]
        weighted = torch.cat([own.values * weight, torch.full_like(own.values[:, :1], weight)], dim=1)
        ids, said = _send(collective, own.ids, weighted, to_owners=sharded)
        distinct, place = ids.unique(return_inverse=True)
        summed = said.new_zeros(len(distinct), said.shape[1]).index_add_(0, place, said)
        rows[table] = Rows(distinct, summed[:, :-1] / (summed[:, -1:].clamp_min(tiny) if touched_only else total))
    return Change(flat[:-1] / total, rows)


def _send(collective: Collective, ids: Tensor, weighted: Tensor, to_owners: bool) -> tuple[Tensor, Tensor]:
    """What all ranks say of rows, in rank order: of all rows, or of those that this rank owns."""
    if not to_owners:
        return collective.all_gather(ids), collective.all_gather(weighted)
    order, counts = by_owner(ids, collective.size)
    return collective.all_to_all(ids[order], counts)[0], collective.all_to_all(weighted[order], counts)[0]
