"""A rank's rows dealt to the rounds of an epoch, domain by domain and, for methods that mix them, all together."""

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
    """An epoch's order of the rows within each domain: the one sort that rounds and support samples share.

    Args:
        train: this rank's rows.
        seed: of the run and epoch.
        arrays: makes the order, 8 bytes a row.

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


def deal_rounds(
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
        plan: deals all domains' rows to rounds.
        epoch: from 0.
        train: this rank's rows.
        rank: decides the order of rows of all domains together.
        arrays: makes the epoch's orders, 8 bytes a row each.
        skipped: rounds at its start that are left out.
        order: of the epoch's rows within domains, if it has been made (`epoch_order`).
        mixes: also make `Round.shuffled`.
        lending: balances the ranks, which then deal the rounds at the same time; None: each visits its own domains.
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
    """All rows in random order, int64 [N], on their device."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.from_numpy(arrays.empty(len(train), np.int64))
    return torch.randperm(len(train), generator=generator, out=shuffled).to(train.labels.device)
