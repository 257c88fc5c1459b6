"""Support rows of DR: a bounded sample per domain, which stays on the owner until other ranks draw rows from it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.plan import PART_ROWS, domain_parts
from mamdr_core.engine.steps import ranges
from mamdr_core.learning.learner import Draw
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.row_exchange import exchange_rows

GOLDEN_SECTION = (5**0.5 - 1) / 2


class SupportSample:
    """A sample of the training rows of every domain for one epoch; ranks fetch the rows that they draw.

    The sample of a domain is uniform without replacement, in random order, and depends only on the order of the rows of
    the domain, not on its owner. The slices of rounds are cut from the same order, and the sample, like every block of
    it, is spread evenly over that order (`spread_places`): a block contains as much of each slice as an independent
    draw on average. A rank stores the positions of the samples of its domains, 8 bytes per row. All ranks must create
    the sample at the same time.

    Args:
        collective: the ranks.
        train: rows of this rank; every domain has one owner.
        rows_per_domain: maximum number of rows in the sample of a domain.
        order: order of the epoch, random within each domain: positions in `train`, int64 [N].

    Attributes:
        counts_n: rows in the sample of each domain, [n], equal on all ranks.
        occupied: domains with rows, ascending, equal on all ranks.
    """

    def __init__(self, collective: Collective, train: Columns, rows_per_domain: int, order: Tensor) -> None:
        self._collective = collective
        self._train = train
        offsets = train.offsets.numpy()
        counts_n = np.diff(offsets)
        own_n = np.minimum(counts_n, rows_per_domain)
        starts_n = np.append(0, own_n.cumsum())
        self._places = torch.empty(int(starts_n[-1]), dtype=torch.long, device=order.device)
        for first, last in domain_parts(starts_n, PART_ROWS):
            part = slice(first, last)
            places = np.repeat(offsets[part], own_n[part]) + spread_places(counts_n[part], own_n[part])
            self._places[starts_n[first] : starts_n[last]] = order[torch.from_numpy(places).to(order.device)]
        self._starts_n = starts_n[:-1]
        known = np.stack([own_n, np.where(own_n > 0, collective.rank, 0)])
        self.counts_n, self._owner_n = collective.all_reduce(torch.from_numpy(known)).numpy()
        self.occupied = np.flatnonzero(self.counts_n)

    def fetch(self, draws: Sequence[Draw]) -> tuple[Columns, list[Tensor]]:
        """Fetch rows of samples from their owners; all ranks must call this the same number of times.

        A single process reads its rows without copying. Several ranks exchange each distinct draw once, by all-to-all.

        Args:
            draws: domain, first row within its sample, and number of rows; possibly empty.

        Returns:
            Columns, and for each draw the positions of its rows in them.
        """
        if self._collective.size == 1:
            starts = [int(self._starts_n[domain]) + first for domain, first, _ in draws]
            rows = [rows for _, _, rows in draws]
            return self._train, [self._places[start : start + size] for start, size in zip(starts, rows, strict=True)]
        draws_D3 = np.array(draws, dtype=np.int64).reshape(-1, 3)
        distinct_U3, place_D = np.unique(draws_D3, axis=0, return_inverse=True)  # by domain
        columns = self._exchange(distinct_U3)
        rows_U = torch.arange(len(columns), device=columns.labels.device).split(distinct_U3[:, 2].tolist())
        return columns, [rows_U[place] for place in place_D.tolist()]

    def _exchange(self, wanted_U3: NDArray[np.int64]) -> Columns:
        """Request the rows of draws from their owners; returns them in the order of the draws, which is by domain."""
        collective, train, ranks = self._collective, self._train, self._collective.size
        owner_U = self._owner_n[wanted_U3[:, 0]]
        order_U = owner_U.argsort(kind="stable")
        splits = np.bincount(owner_U, minlength=ranks).tolist()
        asked, asked_counts = collective.all_to_all(torch.from_numpy(wanted_U3[order_U]), splits)
        domains, firsts, sizes = asked.numpy().T
        own = self._places[torch.from_numpy(ranges(self._starts_n[domains] + firsts, sizes)).to(self._places.device)]
        sent = [int(part[:, 2].sum()) for part in asked.split(asked_counts)]
        return exchange_rows(collective, train, own, sent)


def spread_places(rows_n: NDArray[np.int64], sampled_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distinct positions of the sample of each domain within its rows, int64 [sum of `sampled_n`].

    Position s is s a mod m, where a is near the golden section of m and coprime to m: consecutive positions are far
    apart, and any block of them is spread evenly.

    Args:
        rows_n: number of rows m of each domain.
        sampled_n: number of sampled rows of each domain.
    """
    stride_n = np.maximum(np.rint(rows_n * GOLDEN_SECTION).astype(np.int64), 1)
    while (divides_n := np.gcd(stride_n, rows_n) > 1).any():
        stride_n += divides_n
    number = ranges(np.zeros_like(sampled_n), sampled_n)
    places: NDArray[np.int64] = number * np.repeat(stride_n, sampled_n) % np.repeat(rows_n, sampled_n)
    return places
