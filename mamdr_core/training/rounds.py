"""A rank's rows dealt to the rounds of an epoch, domain by domain and mixed."""

from collections.abc import Iterator

import numpy as np
import torch

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.plan import RoundPlan, shuffled_parts
from mamdr_core.learning.learner import Round
from mamdr_core.shards.arrays import Arrays


def deal_rounds(
    plan: RoundPlan, epoch: int, train: Columns, rank: int, arrays: Arrays, skipped: int = 0
) -> Iterator[Round]:
    """This rank's part of every round of an epoch.

    Args:
        plan: deals all domains' rows to rounds.
        epoch: from 0.
        train: this rank's rows.
        rank: decides the order of rows of all domains together.
        arrays: makes the epoch's two orders, 16 bytes a row.
        skipped: rounds at its start that are left out.
    """
    offsets = train.offsets.numpy()
    counts = np.diff(offsets)
    device = train.labels.device
    within_domains = arrays.empty(len(train), np.int64)
    for first, part in shuffled_parts(offsets, derive_seed(plan.seed, epoch, 3)):
        within_domains[first : first + len(part)] = part
    order = torch.from_numpy(within_domains).to(device)
    generator = torch.Generator().manual_seed(derive_seed(plan.seed, epoch, 4, rank))
    shuffled = torch.from_numpy(arrays.empty(len(train), np.int64))
    shuffled = torch.randperm(len(train), generator=generator, out=shuffled).to(device)
    for number in range(skipped, plan.rounds):
        start, stop = plan.slices(epoch, number)
        visited = plan.order(epoch, number)
        visited = visited[(stop > start)[visited] & (counts > 0)[visited]]
        first, last = (part * len(train) // plan.rounds for part in (number, number + 1))
        yield Round(
            epoch=epoch,
            number=number,
            slices={
                int(domain): order[offsets[domain] + start[domain] : offsets[domain] + stop[domain]]
                for domain in visited
            },
            shuffled=shuffled[first:last],
        )
