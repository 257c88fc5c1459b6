"""Embedding tables sharded by row over ranks, read through the static cache of the paper (section 4.5)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.parameters import Shared
from mamdr_core.engine.striping import Stripe, places_of
from mamdr_core.models.tables import Table, readers
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.owner_exchange import OwnerExchange


class ShardedTable:
    """A table whose row r belongs to rank r mod W; it takes the place of a whole table in `Shared.tables`.

    A rank reads rows that it has fetched from their owners. The dynamic cache of the paper is the copy of these rows
    that a trajectory trains; changes go back to the owners (`mamdr_core.parallel.averaging`), and only owners update
    their rows.

    Args:
        table: name, id column and shape of the whole table.
        own: rows of this rank, r, r + W, ..., float32 [ceil((rows - r) / W), D].
        collective: the ranks.
        columns: the id columns that use the table; by default that of the table.

    Raises:
        ValueError: the shape of `own` is wrong.
    """

    def __init__(self, table: Table, own: Tensor, collective: Collective, columns: Sequence[str] = ()) -> None:
        expected = (Stripe(collective.rank, collective.size).count(table.rows), table.width)
        if tuple(own.shape) != expected:
            raise ValueError(
                f"rank {collective.rank} of {collective.size} owns {expected} of table {table.name}, got {own.shape}"
            )
        self.table = table
        self.columns = tuple(columns) or (table.column,)
        self.own = own
        self.collective = collective
        self._drop_fetched()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width of the whole table."""
        return self.table.rows, self.table.width

    def fetch(self, ids: Tensor) -> None:
        """Fetch rows from their owners, replacing earlier ones; all ranks must call this the same number of times.

        Args:
            ids: int64 [M], in any order, possibly repeated or empty.

        Raises:
            IndexError: an id outside the table.
        """
        ids_U = ids.unique()
        if len(ids_U) and (ids_U[0] < 0 or ids_U[-1] >= self.table.rows):
            raise IndexError(
                f"table {self.table.name} has rows 0 to {self.table.rows - 1}, asked for {int(ids_U[0])} to "
                f"{int(ids_U[-1])}"
            )
        self._ids_U, self._values_UD = ids_U, OwnerExchange(ids_U, self.collective).read(self.own)

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Fetched rows, float32 [U, D].

        Raises:
            KeyError: a row has not been fetched since the table last changed, a bug: `Shared.prefetch` was not called.
        """
        place_U = torch.searchsorted(self._ids_U, ids)
        known_U = self._ids_U[place_U.clamp(max=len(self._ids_U) - 1)] == ids if len(self._ids_U) else ids < 0
        if not known_U.all():
            raise KeyError(f"row {int(ids[~known_U][0])} of table {self.table.name} has not been fetched")
        return self._values_UD[place_U]

    def places(self, ids: Tensor) -> Tensor:
        """Positions in `own` of rows that this rank owns."""
        return places_of(ids, self.collective.size)

    def index_add_(self, dim: int, places: Tensor, values: Tensor) -> None:
        """Add to rows of this rank in place, as Tensor.index_add_; fetched rows become stale and are dropped."""
        self.own.index_add_(dim, places, values)
        self._drop_fetched()

    def assign(self, own: Tensor) -> None:
        """Replace the values of this rank's rows in place; fetched rows become stale and are dropped."""
        self.own.copy_(own)
        self._drop_fetched()

    def to(self, device: torch.device | str) -> "ShardedTable":
        """A copy on `device` without fetched rows."""
        return self.with_rows(self.own.to(device))

    def with_rows(self, own: Tensor) -> "ShardedTable":
        """The table with other values for the rows of this rank."""
        return ShardedTable(self.table, own, self.collective, self.columns)

    def _drop_fetched(self) -> None:
        self._ids_U = torch.zeros(0, dtype=torch.long, device=self.own.device)
        self._values_UD = self.own[:0]


def initial_sharded(
    module: nn.Module,
    tables: Sequence[Table],
    seed: int,
    device: torch.device | str,
    collective: Collective,
    vectors: Mapping[str, Tensor] | None = None,
) -> Shared:
    """Initial theta_S as in `initial_shared`; a rank keeps the dense part and the rows that it owns."""
    drawn = initial_shared(module, tables, seed, device, Stripe(collective.rank, collective.size), vectors)
    named = {table.name: table for table in tables}
    sharded = {
        name: ShardedTable(named[name], own, collective, [field.column for field in readers(tables, name)])
        for name, own in drawn.tables.items()
        if isinstance(own, Tensor)
    }
    return Shared(drawn.dense, sharded)
