"""Parameters and changes of them: theta_S, theta_i and theta~ - theta, without copies of embedding tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.state_memory import IN_MEMORY, StateMemory
from mamdr_core.models.tables import Table


@dataclass
class Rows:
    """Some rows of an embedding table: ids int64 [U], ascending and distinct; values float32 [U, D]."""

    ids: Tensor
    values: Tensor

    def add_to(self, start_UD: Tensor, ids_U: Tensor) -> Tensor:
        """Add these values to `start_UD`, rows `ids_U` of the table, for the ids that are in both."""
        if not len(self.ids):
            return start_UD
        place_U = torch.searchsorted(self.ids, ids_U).clamp_(max=len(self.ids) - 1)
        found_U = self.ids[place_U] == ids_U
        return start_UD + self.values[place_U] * found_U[:, None].to(self.values.dtype)


@dataclass
class Change:
    """A change of parameters: theta~ - theta of a trajectory, a gradient, or specific parameters theta_i.

    Attributes:
        dense: change of all dense parameters, [P].
        rows: changed rows by embedding table; other rows are unchanged.
    """

    dense: Tensor
    rows: dict[str, Rows] = field(default_factory=dict)

    def move(self, other: "Change", scale: float) -> None:
        """Add `scale * other` in place; tensors of embedding rows are replaced, not modified."""
        self.dense.add_(other.dense, alpha=scale)
        self.rows = self._rows_with(other, scale)

    def add(self, other: "Change", scale: float) -> "Change":
        """`self + scale * other` as a new Change."""
        return Change(self.dense + scale * other.dense, self._rows_with(other, scale))

    def norm(self) -> float:
        """Euclidean norm over all parameters."""
        parts = [self.dense, *(rows.values for rows in self.rows.values())]
        return math.sqrt(sum(float(part.double().square().sum()) for part in parts))

    def _rows_with(self, other: "Change", scale: float) -> dict[str, Rows]:
        rows = dict(self.rows)
        for table, theirs in other.rows.items():
            scaled = Rows(theirs.ids, theirs.values * scale)
            rows[table] = _merge(rows[table], scaled) if table in rows else scaled
        return rows


def _merge(left: Rows, right: Rows) -> Rows:
    if torch.equal(left.ids, right.ids):
        return Rows(left.ids, left.values + right.values)
    ids, place = torch.cat([left.ids, right.ids]).unique(return_inverse=True)
    values = left.values.new_zeros(len(ids), left.values.shape[1])
    return Rows(ids, values.index_add_(0, place, torch.cat([left.values, right.values])))


class TableShard(Protocol):
    """An embedding table whose rows are divided over ranks; a rank reads rows that it has fetched.

    Implemented by `mamdr_core.parallel.sharded`. Training and prediction read rows through `Theta.gather`; the outer
    optimizer updates `own`.
    """

    columns: tuple[str, ...]
    """The id columns that use the table."""
    own: Tensor
    """This rank's rows, float32 [K, D]."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width of the whole table."""

    def fetch(self, ids: Tensor) -> None:
        """Fetch rows from their owners, replacing earlier ones; a collective call."""

    def __getitem__(self, ids_U: Tensor) -> Tensor:
        """Fetched rows [U, D]."""

    def places(self, ids: Tensor) -> Tensor:
        """Positions in `own` of rows that this rank owns."""

    def index_add_(self, dim: int, places: Tensor, values: Tensor) -> object:
        """Add to `own` in place."""

    def assign(self, own: Tensor) -> None:
        """Replace the values of `own` in place."""

    def to(self, device: torch.device | str) -> "TableShard":
        """A copy on `device`."""

    def with_rows(self, own: Tensor) -> "TableShard":
        """The table with other values for the rows of this rank."""


@dataclass
class Shared:
    """theta_S: dense parameters [P] and embedding tables by name, whole (float32 [rows, D]) or sharded over ranks."""

    dense: Tensor
    tables: Mapping[str, Tensor | TableShard]

    def to(self, device: torch.device | str) -> "Shared":
        """A copy on `device`."""
        return Shared(self.dense.to(device), {name: table.to(device) for name, table in self.tables.items()})

    def copy(self, memory: StateMemory = IN_MEMORY) -> "Shared":
        """A copy that shares no memory, with its tables in `memory`."""
        tables = {
            name: memory.copy(table) if isinstance(table, Tensor) else table.with_rows(memory.copy(table.own))
            for name, table in self.tables.items()
        }
        return Shared(self.dense.clone(), tables)

    def assign(self, other: "Shared") -> None:
        """Copy the values of another theta_S of the same shapes, in place."""
        self.dense.copy_(other.dense)
        for name, table in self.tables.items():
            values = other.tables[name]
            if isinstance(table, Tensor):
                assert isinstance(values, Tensor)
                table.copy_(values)
            else:
                assert not isinstance(values, Tensor)
                table.assign(values.own)

    def zeros_like(self) -> "Shared":
        """Parameters that are all zero; the network then returns logits of 0 for any structure."""
        tables = {
            name: torch.zeros_like(table) if isinstance(table, Tensor) else table.with_rows(torch.zeros_like(table.own))
            for name, table in self.tables.items()
        }
        return Shared(torch.zeros_like(self.dense), tables)

    def prefetch(self, visits: Iterable[Visit]) -> None:
        """Fetch the rows of sharded tables that `visits` read, replacing earlier ones (static cache, section 4.5).

        With sharded tables this is a collective call, also without visits; whole tables need no fetching.
        """
        sharded = [table for table in self.tables.values() if not isinstance(table, Tensor)]
        visits = list(visits) if sharded else []
        nothing = torch.zeros(0, dtype=torch.long, device=self.dense.device)
        for table in sharded:
            columns = table.columns
            read = [visit.ids(column).flatten().to(nothing.device) for visit in visits for column in columns]
            table.fetch(torch.cat([nothing, *read]))


@dataclass
class Theta:
    """Parameters theta_S + theta_i (Eq. 5), or theta_S without theta_i."""

    shared: Shared
    specific: Change | None = None

    @property
    def dense(self) -> Tensor:
        """Dense parameters [P]; a copy if there is a theta_i."""
        return self.shared.dense if self.specific is None else self.shared.dense + self.specific.dense

    def shared_rows(self, table: str, ids_U: Tensor) -> Tensor:
        """Rows of an embedding table of theta_S, float32 [U, D]."""
        whole = self.shared.tables[table]
        return whole.index_select(0, ids_U) if isinstance(whole, Tensor) else whole[ids_U]  # faster than indexing

    def gather(self, table: str, ids_U: Tensor) -> Tensor:
        """Rows of an embedding table of theta_S + theta_i, float32 [U, D]."""
        start_UD = self.shared_rows(table, ids_U)
        if self.specific is None or table not in self.specific.rows:
            return start_UD
        return self.specific.rows[table].add_to(start_UD, ids_U)


def stacked_dense(thetas: Sequence[Theta]) -> Tensor:
    """Dense parameters for several theta_i and one theta_S, [G, P]."""
    shared_P = thetas[0].shared.dense
    dense_GP = shared_P.new_empty(len(thetas), len(shared_P))
    for theta, dense_P in zip(thetas, dense_GP, strict=True):
        if theta.specific is None:
            dense_P.copy_(shared_P)
        else:
            torch.add(shared_P, theta.specific.dense, out=dense_P)
    return dense_GP


def stacked_rows(thetas: Sequence[Theta], table: Table, ids_N: Tensor, of_N: Tensor) -> Tensor:
    """Rows of an embedding table for several theta_i and one theta_S, float32 [N, D].

    Args:
        thetas: G parameters with the same theta_S.
        table: the table.
        ids_N: rows, int64 [N].
        of_N: position in `thetas` of the parameters for each row, int64 [N].
    """
    if len(thetas) == 1:
        return thetas[0].gather(table.name, ids_N)
    start_ND = thetas[0].shared_rows(table.name, ids_N)
    own = {place: theta.specific.rows for place, theta in enumerate(thetas) if theta.specific is not None}
    own = {place: rows for place, rows in own.items() if table.name in rows}
    if not own:
        return start_ND
    ids = torch.cat([place * table.rows + rows[table.name].ids for place, rows in own.items()])
    values = torch.cat([rows[table.name].values for rows in own.values()])
    return Rows(ids, values).add_to(start_ND, of_N * table.rows + ids_N)


@dataclass(frozen=True)
class Scope:
    """The embedding rows that a trajectory may change, in addition to all dense parameters.

    Attributes:
        tables: names of trained tables; None: all.
        only: ids of a table that may change, int64 ascending; for a table without an entry all.
    """

    tables: frozenset[str] | None = None
    only: dict[str, Tensor] | None = None

    def covers(self, table: Table) -> bool:
        """Whether the trajectory may change rows of a table; tables of measured statistics never change."""
        return not table.measured and (self.tables is None or table.name in self.tables)


EVERYTHING = Scope()
