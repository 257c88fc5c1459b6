"""Splits the rows of a rank into the rounds of an epoch: by domain, and in mixed order for methods that need it."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.plan import RoundPlan, shuffled_parts
from mamdr_core.learning.learner import Round
from mamdr_core.parallel.lending import Lending
from mamdr_core.shards.arrays import Arrays


def shuffle_rows(train: Columns, seed: int, arrays: Arrays) -> Tensor:
    """Random order of the rows within each domain for an epoch; rounds and support samples share it.

    Args:
        seed: seed of the run and epoch.
        arrays: allocates the order, 8 bytes per row.

    Returns:
        Positions in `train`, int64 [N], on its device.
    """
    within_domains = arrays.empty(len(train), np.int64)
    for first, part in shuffled_parts(train.offsets.numpy(), seed):
        within_domains[first : first + len(part)] = part
    return torch.from_numpy(within_domains).to(train.labels.device)


def epoch_order(plan: RoundPlan, epoch: int, train: Columns, arrays: Arrays) -> Tensor:
    """`shuffle_rows` of an epoch of a plan."""
    return shuffle_rows(train, derive_seed(plan.seed, epoch, 3), arrays)


def make_rounds(
    plan: RoundPlan,
    epoch: int,
    train: Columns,
    rank: int,
    arrays: Arrays,
    skipped: int = 0,
    order: Tensor | None = None,
    mixes: bool = False,
    lending: Lending | None = None,
) -> Iterator[Round]:
    """This rank's part of every round of an epoch.

    Args:
        plan: splits the rows of all domains into rounds.
        epoch: epoch, from 0.
        rank: seeds the mixed order of the rows of all domains.
        arrays: allocates the orders of the epoch, 8 bytes per row each.
        skipped: number of rounds at the start that are skipped.
        order: result of `epoch_order`, if it has been computed.
        mixes: whether to fill `Round.shuffled`.
        lending: balances the ranks, which must then iterate at the same time; None: each rank visits its own domains.
    """
    offsets = train.offsets.numpy()
    counts = np.diff(offsets)
    if order is None:
        order = epoch_order(plan, epoch, train, arrays)
    shuffled = _mix_rows(train, derive_seed(plan.seed, epoch, 4, rank), arrays) if mixes else None
    for number in range(skipped, plan.rounds):
        start, stop = plan.slices(epoch, number)
        visited = plan.order(epoch, number)
        visited = visited[(stop > start)[visited]]
        first, last = (part * len(train) // plan.rounds for part in (number, number + 1))
        yield Round(
            epoch=epoch,
            number=number,
            slices={
                int(domain): order[offsets[domain] + start[domain] : offsets[domain] + stop[domain]]
                for domain in visited[counts[visited] > 0]
            },
            shuffled=None if shuffled is None else shuffled[first:last],
            balanced=lending.visits(train, order, start, stop, visited) if lending else None,
        )


def _mix_rows(train: Columns, seed: int, arrays: Arrays) -> Tensor:
    """Random order of all rows, int64 [N], on their device."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.from_numpy(arrays.empty(len(train), np.int64))
    return torch.randperm(len(train), generator=generator, out=shuffled).to(train.labels.device)
