"""Points and steps in parameter space: theta_S, theta_i, theta~ - theta, without ever copying an embedding table."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Rows:
    """Some rows of an embedding table: ids int64 [U], ascending and distinct; values float32 [U, D]."""

    ids: Tensor
    values: Tensor

    def add_to(self, start_UD: Tensor, ids_U: Tensor) -> Tensor:
        """`start_UD`, the table's rows `ids_U`, plus this where the ids meet."""
        if not len(self.ids):
            return start_UD
        place_U = torch.searchsorted(self.ids, ids_U).clamp_(max=len(self.ids) - 1)
        meets_U = self.ids[place_U] == ids_U
        return start_UD + self.values[place_U] * meets_U[:, None].to(self.values.dtype)


@dataclass
class Change:
    """A step in parameter space, in the coordinates that it touches.

    It is theta~ - theta of a trajectory, a gradient, or a domain's specific parameters theta_i.

    Attributes:
        dense: all dense parameters, [P].
        rows: by embedding table, the touched rows.
    """

    dense: Tensor
    rows: dict[str, Rows] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Change":
        """The same on `device`."""
        rows = {name: Rows(own.ids.to(device), own.values.to(device)) for name, own in self.rows.items()}
        return Change(self.dense.to(device), rows)

    def add(self, other: "Change", scale: float) -> "Change":
        """`self + scale * other` as a new Change."""
        rows = dict(self.rows)
        for table, theirs in other.rows.items():
            scaled = Rows(theirs.ids, theirs.values * scale)
            rows[table] = _merge(rows[table], scaled) if table in rows else scaled
        return Change(self.dense + scale * other.dense, rows)


def _merge(left: Rows, right: Rows) -> Rows:
    if torch.equal(left.ids, right.ids):
        return Rows(left.ids, left.values + right.values)
    ids, place = torch.cat([left.ids, right.ids]).unique(return_inverse=True)
    values = left.values.new_zeros(len(ids), left.values.shape[1])
    return Rows(ids, values.index_add_(0, place, torch.cat([left.values, right.values])))


@dataclass
class Shared:
    """theta_S: dense parameters [P] and whole embedding tables, by name float32 [rows, D]."""

    dense: Tensor
    tables: dict[str, Tensor]

    def to(self, device: torch.device | str) -> "Shared":
        """The same on `device`."""
        return Shared(self.dense.to(device), {name: table.to(device) for name, table in self.tables.items()})

    def copy(self) -> "Shared":
        """A copy that shares no memory."""
        return Shared(self.dense.clone(), {name: table.clone() for name, table in self.tables.items()})


@dataclass
class Theta:
    """A point theta_S + theta_i (Eq. 5); without theta_i it is theta_S."""

    shared: Shared
    specific: Change | None = None

    @property
    def dense(self) -> Tensor:
        """Dense parameters [P]; a copy when there is a theta_i."""
        return self.shared.dense if self.specific is None else self.shared.dense + self.specific.dense

    def gather(self, table: str, ids_U: Tensor) -> Tensor:
        """Rows of an embedding table at this point, float32 [U, D]."""
        start_UD = self.shared.tables[table][ids_U]
        if self.specific is None or table not in self.specific.rows:
            return start_UD
        return self.specific.rows[table].add_to(start_UD, ids_U)
