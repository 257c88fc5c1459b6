"""Embedding tables sharded by row over ranks, looked up through the paper's static cache (section 4.5)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.parameters import Shared
from mamdr_core.models.tables import Table, readers
from mamdr_core.parallel.collective import Collective


class ShardedTable:
    """A table whose row r belongs to rank r mod W; stands for the whole one in `Shared.tables`.

    A rank looks up rows that it has fetched from their owners before. The paper's dynamic cache is the copy of them
    that a trajectory trains; what it changed goes back to the owners (`mamdr_core.parallel.averaging`), which alone
    move their rows.

    Args:
        table: name, id column and shape of the whole table.
        own: this rank's rows r, r + W, ..., float32 [ceil((rows - r) / W), D].
        collective: the ranks.
        columns: the id columns whose rows it has; by default the table's own.

    Raises:
        ValueError: `own` has not the shape of this rank's rows.
    """

    def __init__(self, table: Table, own: Tensor, collective: Collective, columns: Sequence[str] = ()) -> None:
        expected = (len(range(collective.rank, table.rows, collective.size)), table.width)
        if tuple(own.shape) != expected:
            raise ValueError(
                f"rank {collective.rank} of {collective.size} owns {expected} of table {table.name}, got {own.shape}"
            )
        self.table = table
        self.columns = tuple(columns) or (table.column,)
        self.own = own
        self.collective = collective
        self._forget()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width of the whole table."""
        return self.table.rows, self.table.width

    def fetch(self, ids: Tensor) -> None:
        """Get rows from their owners, in place of those fetched before; every rank calls this equally often.

        Args:
            ids: int64 [M], in any order, repeated or none at all.

        Raises:
            IndexError: an id that the table has not.
        """
        ids_U = ids.unique()
        if len(ids_U) and (ids_U[0] < 0 or ids_U[-1] >= self.table.rows):
            raise IndexError(
                f"table {self.table.name} has rows 0 to {self.table.rows - 1}, asked for {int(ids_U[0])} to "
                f"{int(ids_U[-1])}"
            )
        order_U, counts = by_owner(ids_U, self.collective.size)
        asked, asked_counts = self.collective.all_to_all(ids_U[order_U], counts)
        values_UD, _ = self.collective.all_to_all(self.own[self.places(asked)], asked_counts)
        self._ids_U = ids_U
        self._values_UD = torch.empty_like(values_UD)
        self._values_UD[order_U] = values_UD

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Fetched rows, float32 [U, D].

        Raises:
            KeyError: one has not been fetched since the table last changed: `Shared.reach` was left out, a bug.
        """
        place_U = torch.searchsorted(self._ids_U, ids)
        known_U = self._ids_U[place_U.clamp(max=len(self._ids_U) - 1)] == ids if len(self._ids_U) else ids < 0
        if not known_U.all():
            raise KeyError(f"row {int(ids[~known_U][0])} of table {self.table.name} has not been fetched")
        return self._values_UD[place_U]

    def places(self, ids: Tensor) -> Tensor:
        """Where this rank's rows `ids` lie in `own`."""
        return ids // self.collective.size

    def index_add_(self, dim: int, places: Tensor, values: Tensor) -> None:
        """Add to own rows in place, as Tensor.index_add_; what was fetched is out of date then, and forgotten."""
        self.own.index_add_(dim, places, values)
        self._forget()

    def clone(self) -> "ShardedTable":
        """A copy of own rows that shares no memory; it has fetched none."""
        return self.with_rows(self.own.clone())

    def to(self, device: torch.device | str) -> "ShardedTable":
        """Own rows on `device`, none fetched."""
        return self.with_rows(self.own.to(device))

    def with_rows(self, own: Tensor) -> "ShardedTable":
        """The table with other values of this rank's rows."""
        return ShardedTable(self.table, own, self.collective, self.columns)

    def _forget(self) -> None:
        self._ids_U = torch.zeros(0, dtype=torch.long, device=self.own.device)
        self._values_UD = self.own[:0]


def by_owner(ids_U: Tensor, ranks: int) -> tuple[Tensor, list[int]]:
    """How to send something of rows to their owners.

    Args:
        ids_U: rows, int64 [U].
        ranks: world size W.

    Returns:
        The order that puts rank 0's rows first, then rank 1's, ..., int64 [U]; and how many each rank owns, [W].
    """
    owner_U = ids_U % ranks
    return owner_U.argsort(stable=True), torch.bincount(owner_U, minlength=ranks).tolist()


def initial_sharded(
    module: nn.Module,
    tables: Sequence[Table],
    seed: int,
    device: torch.device | str,
    collective: Collective,
    vectors: Mapping[str, Tensor] | None = None,
) -> Shared:
    """theta_S before training as `initial_shared` draws it, of which a rank keeps the dense part and its own rows."""
    drawn = initial_shared(module, tables, seed, device, (collective.rank, collective.size), vectors)
    named = {table.name: table for table in tables}
    sharded = {
        name: ShardedTable(named[name], own, collective, [field.column for field in readers(tables, name)])
        for name, own in drawn.tables.items()
        if isinstance(own, Tensor)
    }
    return Shared(drawn.dense, sharded)
