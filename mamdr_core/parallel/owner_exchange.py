"""Exchange of values by row between ranks that use a table and the ranks that own its rows (engine.striping)."""

import torch
from torch import Tensor

from mamdr_core.engine.striping import owners_of, places_of
from mamdr_core.parallel.collective import Collective


class OwnerExchange:
    """Sends values of some rows to the ranks that own the rows, and values back; reusable for the same rows.

    Args:
        ids_U: distinct rows that this rank uses, int64 [U], in any order.
        collective: the ranks; the constructor and all methods are collective calls.

    Attributes:
        requested_M: the rows of this rank that ranks use, in rank order, int64 [M]; distinct for each of them.
    """

    def __init__(self, ids_U: Tensor, collective: Collective) -> None:
        self._collective = collective
        owner_U = owners_of(ids_U, collective.size)
        self._order_U = owner_U.argsort(stable=True)
        self._counts = torch.bincount(owner_U, minlength=collective.size).tolist()
        self.requested_M, self._requested_counts = collective.all_to_all(ids_U[self._order_U], self._counts)
        self._places_M = places_of(self.requested_M, collective.size)

    def send(self, values_UC: Tensor) -> Tensor:
        """The values of all ranks for `requested_M`, [M, C]."""
        return self._collective.all_to_all(values_UC[self._order_U], self._counts)[0]

    def sum_at_owner(self, values_UC: Tensor, size: int) -> Tensor:
        """Sums over ranks of values by row, [size, C], for the rows that this rank owns."""
        return values_UC.new_zeros(size, values_UC.shape[1]).index_add_(0, self._places_M, self.send(values_UC))

    def read(self, values_K: Tensor) -> Tensor:
        """Values [U, ...] of `ids_U` from their owners.

        Args:
            values_K: values of the rows that this rank owns, [K, ...].
        """
        received, _ = self._collective.all_to_all(values_K[self._places_M], self._requested_counts)
        values_U = torch.empty_like(received)
        values_U[self._order_U] = received
        return values_U
