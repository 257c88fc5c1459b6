"""Ranks with more than their share of a round lend rows to others, which descend on them for theta_S."""

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
    """Balances the ranks in every round; domains keep their owners.

    What moves follows from the domains' sizes and owners, which all ranks know. So only rows are sent, and a round's
    rows are on their way in that round alone.

    Args:
        collective: the ranks, at least two.
        owner_n: rank of each domain, int64 [n].
        batch_size: rows of a step at most.
    """

    collective: Collective
    owner_n: Ints
    batch_size: int

    def visits(
        self, train: Columns, order: Tensor, start_n: Ints, stop_n: Ints, visited: Ints
    ) -> dict[int, Visit] | None:
        """This rank's visits of a round: to own rows but those lent, and to borrowed rows.

        Every rank calls this equally often. A domain's visits on several ranks have each of its rows once.

        Args:
            train: this rank's rows.
            order: their order within domains, positions in `train`, int64 [N].
            start_n, stop_n: each domain's slice of the round, int64 [n].
            visited: domains in the order of the round.

        Returns:
            By domain, in that order; None if the ranks are balanced and each visits its own slices.
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
    """Where the rows of some of this rank's batches stand in the order of its rows, int64 [M]."""
    begin = train.offsets.numpy()[batches.domain_U[chosen]]
    return torch.from_numpy(ranges(begin + batches.start_U[chosen], batches.sizes[chosen]))


def _rows_by_domain(batches: Batches, chosen: Ints) -> tuple[list[int], list[int]]:
    """The domains of some batches, ascending, and how many rows these have of each."""
    domains, first = np.unique(batches.domain_U[chosen], return_index=True)
    counts = np.add.reduceat(batches.sizes[chosen], first) if len(first) else first
    return domains.tolist(), counts.tolist()
