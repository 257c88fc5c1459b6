"""Overloaded ranks lend rows of a round to other ranks, which train theta_S on them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.steps import ranges
from mamdr_core.parallel.balance import Batches, balance_ranks
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.row_exchange import exchange_rows

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Lending:
    """Balances the ranks in every round; the owners of domains do not change.

    All ranks derive the moves from the sizes and owners of the domains, so only rows are sent, and only for the current
    round.

    Args:
        collective: the ranks, at least two.
        owner_n: rank of each domain, int64 [n].
        batch_size: maximum number of rows of a step.
    """

    collective: Collective
    owner_n: Ints
    batch_size: int

    def visits(
        self, train: Columns, order: Tensor, start_n: Ints, stop_n: Ints, visited: Ints
    ) -> dict[int, Visit] | None:
        """Visits of this rank in a round: to its own rows except lent ones, and to borrowed rows.

        All ranks must call this the same number of times. Together, the visits to a domain cover each of its rows once.

        Args:
            train: rows of this rank.
            order: order of rows within domains, positions in `train`, int64 [N].
            start_n, stop_n: slice of the round per domain, int64 [n].
            visited: domains in the order of the round.

        Returns:
            Visits by domain, in the order of the round; None if the ranks are balanced and visit their own slices.
        """
        batches = balance_ranks(start_n, stop_n, self.owner_n, self.collective.size, self.batch_size)
        if not batches.lent.any():
            return None
        found = self._kept(train, order, batches) | self._borrowed(train, order, batches)
        here_n = np.zeros(len(start_n), dtype=np.bool_)
        here_n[list(found)] = True
        return {domain: found[domain] for domain in visited[here_n[visited]].tolist()}

    def _kept(self, train: Columns, order: Tensor, batches: Batches) -> dict[int, Visit]:
        rank = self.collective.rank
        kept = np.flatnonzero((batches.owner_U == rank) & (batches.holder_U == rank))
        domains, counts = _rows_by_domain(batches, kept)
        rows = order[_places(train, batches, kept).to(order.device)].split(counts)
        return {domain: Visit(train, own) for domain, own in zip(domains, rows, strict=True)}

    def _borrowed(self, train: Columns, order: Tensor, batches: Batches) -> dict[int, Visit]:
        rank = self.collective.rank
        lent = np.flatnonzero((batches.owner_U == rank) & batches.lent)
        lent = lent[batches.holder_U[lent].argsort(kind="stable")]
        splits = np.zeros(self.collective.size, dtype=np.int64)
        np.add.at(splits, batches.holder_U[lent], batches.sizes[lent])
        rows = order[_places(train, batches, lent).to(order.device)]
        columns = exchange_rows(self.collective, train, rows, splits.tolist())
        domains, counts = _rows_by_domain(batches, np.flatnonzero((batches.holder_U == rank) & batches.lent))
        places = torch.arange(len(columns), device=order.device).split(counts)
        return {domain: Visit(columns, own) for domain, own in zip(domains, places, strict=True)}


def _places(train: Columns, batches: Batches, chosen: Ints) -> Tensor:
    """Positions of the rows of batches of this rank in the order of its rows, int64 [M]."""
    begin = train.offsets.numpy()[batches.domain_U[chosen]]
    return torch.from_numpy(ranges(begin + batches.start_U[chosen], batches.sizes[chosen]))


def _rows_by_domain(batches: Batches, chosen: Ints) -> tuple[list[int], list[int]]:
    """The domains of batches, ascending, and their number of rows in these batches."""
    domains, first = np.unique(batches.domain_U[chosen], return_index=True)
    counts = np.add.reduceat(batches.sizes[chosen], first) if len(first) else first
    return domains.tolist(), counts.tolist()
