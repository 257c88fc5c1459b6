"""phi(x): the features that a domain's specific parameters weigh, standardised over all training rows.

Shape suffixes: M rows, F entries of phi, K numeric features, D width of a vector, U and V widths of all vectors of a
user and of an item, R products.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns, FrozenTables
from mamdr_core.mixed.products import Projection, Sample, learn_products, sampled_rows
from mamdr_core.models.tables import Table
from mamdr_core.parallel.collective import Collective
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.stateful import State

PART_ROWS = 1 << 16
"""Rows whose moments are summed together."""
PRODUCT = "user*item"
"""Prefix of the names of products, which is not a valid name of a feature."""
_LEAST_DEVIATION = 1e-6


class Design:
    """phi(x) = [1, products of vectors, fixed vectors, numeric features] of a row, each entry standardised.

    Args:
        tables: the model's inputs; the fixed vectors among them are entries of phi.
        frozen: the fixed vectors.
        numeric: number of numeric features.
        factors: number of products of users' and items' vectors, limited to the smaller width; 0: none.

    Attributes:
        users, items: projections whose results are multiplied; see `mamdr_core.mixed.products`.
        columns: by name of fixed vectors, the id column that selects their rows.
        names: names of the F entries; the first is "bias".
        mean_F, scale_F: an entry is (x - mean) * scale; the scale of a constant entry is 0.
    """

    def __init__(self, tables: Sequence[Table], frozen: FrozenTables, numeric: int, factors: int) -> None:
        self._vectors = [table for table in tables if not table.trainable]
        self.columns = {table.name: table.column for table in self._vectors}
        self._frozen = {table.name: frozen[table.name].cpu() for table in self._vectors}
        self._users, self._items = (
            [table for table in self._vectors if table.column == column] for column in ("user", "item")
        )
        user_width, item_width = (sum(table.width for table in tables) for tables in (self._users, self._items))
        self._factors = factors = min(factors, user_width, item_width)
        self.users, self.items = Projection.plain(user_width, factors), Projection.plain(item_width, factors)
        vectors = [(table.name, table.width) for table in self._vectors]
        widths = [(PRODUCT, factors), *vectors, ("numeric", numeric)]
        self.names = ("bias", *(f"{name}.{place}" for name, width in widths for place in range(width)))
        self.mean_F = torch.zeros(len(self.names), dtype=torch.float64)
        self.scale_F = torch.ones(len(self.names), dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.names)

    def learn_products(self, columns: Columns, collective: Collective) -> None:
        """Learn the products of phi from the training rows of all ranks; a collective call.

        Args:
            columns: this rank's training rows.
            collective: the ranks.
        """
        if not self._factors:
            return
        rows_M, domain_M = sampled_rows(columns, collective)
        sample = Sample(*self._sides(self._read(columns, rows_M)), domain_M, columns.labels[rows_M].cpu())
        self.users, self.items = learn_products(sample, (self.users, self.items), collective)

    def standardise(self, columns: Columns, collective: Collective) -> None:
        """Compute means and scales from the training rows of all ranks; a collective call.

        Args:
            columns: this rank's training rows.
            collective: the ranks.

        Raises:
            MamdrError: an entry is not finite.
        """
        sums_3F = torch.zeros(3, len(self), dtype=torch.float64)
        for rows_M in torch.arange(len(columns)).split(PART_ROWS) if len(columns) else ():
            raw_MF = self._raw(columns, rows_M).double()
            sums_3F += torch.stack([raw_MF.sum(0), raw_MF.square().sum(0), torch.full_like(raw_MF[0], len(rows_M))])
        total_F, squares_F, rows_F = collective.all_reduce(sums_3F)
        self.mean_F = total_F / rows_F.clamp_min(1)
        deviation_F = (squares_F / rows_F.clamp_min(1) - self.mean_F.square()).clamp_min(0).sqrt()
        self.scale_F = torch.where(deviation_F > _LEAST_DEVIATION, 1 / deviation_F.clamp_min(_LEAST_DEVIATION), 0)
        self.mean_F[0], self.scale_F[0] = 0, 1
        finite_F = self.mean_F.isfinite() & self.scale_F.isfinite()
        if not finite_F.all():
            bad = [name for name, finite in zip(self.names, finite_F.tolist(), strict=True) if not finite]
            name = next((name for name in bad if not name.startswith(PRODUCT)), bad[0])  # the vector, not its product
            raise MamdrError(f"{name} of the training rows is not finite: check the values of that feature")

    def rows(self, columns: Columns, rows_M: Tensor) -> Tensor:
        """The values phi of some rows, float32 [M, F]."""
        return self._raw(columns, rows_M).sub_(self.mean_F.float()).mul_(self.scale_F.float())

    def _raw(self, columns: Columns, rows_M: Tensor) -> Tensor:
        return self.join(self._read(columns, rows_M), columns.numeric[rows_M].cpu())

    def _read(self, columns: Columns, rows_M: Tensor) -> dict[str, Tensor]:
        """The fixed vectors of some rows by table."""
        ids = {
            column: columns.ids[column].index_select(0, rows_M.to(columns.ids[column].device)).cpu()
            for column in set(self.columns.values())
        }
        return {name: self._frozen[name].index_select(0, ids[column]) for name, column in self.columns.items()}

    def _sides(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The concatenated fixed vectors of users, and of items, [M, U] and [M, V]."""
        users, items = ([vectors[table.name] for table in tables] for tables in (self._users, self._items))
        return torch.cat(users, 1), torch.cat(items, 1)

    def join(self, vectors: Mapping[str, Tensor], numeric_MK: Tensor) -> Tensor:
        """The entries of phi before standardisation, [M, F].

        Args:
            vectors: the fixed vectors of the rows by table, [M, D].
            numeric_MK: standardised numeric features; K may be 0.
        """
        parts = [numeric_MK.new_ones(numeric_MK.shape[0], 1)]
        if self._factors:
            user_MU, item_MV = self._sides(vectors)
            parts.append(self.users(user_MU) * self.items(item_MV))
        parts += [vectors[table.name] for table in self._vectors]
        return torch.cat([*parts, numeric_MK], 1)

    def state_dict(self) -> State:
        """Projections, means and scales."""
        projections = {"users": self.users, "items": self.items}
        shifts = {f"{name}_shift": each.shift_D for name, each in projections.items()}
        directions = {f"{name}_directions": each.directions_DR for name, each in projections.items()}
        return State(same={"mean": self.mean_F, "scale": self.scale_F, **shifts, **directions})

    def load_state_dict(self, state: State) -> None:
        """Load projections, means and scales."""
        self.mean_F = state.tensor(state.same, "mean", self.mean_F)
        self.scale_F = state.tensor(state.same, "scale", self.scale_F)
        self.users, self.items = (
            Projection(
                state.tensor(state.same, f"{name}_shift", like.shift_D),
                state.tensor(state.same, f"{name}_directions", like.directions_DR),
            )
            for name, like in (("users", self.users), ("items", self.items))
        )
