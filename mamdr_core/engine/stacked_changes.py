"""Sums and inner products of several changes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mamdr_core.engine.parameters import Change, Rows


class ChangeSum:
    """A sum of changes; embedding rows are merged only once, at the end."""

    def __init__(self) -> None:
        self._count = 0
        self._dense: Tensor | None = None
        self._rows: dict[str, list[Rows]] = {}

    def add(self, change: Change, weight: float = 1.0) -> None:
        """Add `weight` times a change."""
        self._count += 1
        self._dense = weight * change.dense if self._dense is None else self._dense.add_(change.dense, alpha=weight)
        for name, rows in change.rows.items():
            self._rows.setdefault(name, []).append(Rows(rows.ids, weight * rows.values))

    def total(self) -> Change:
        """The sum of at least one change."""
        return self._merged(1.0, touched=False)

    def mean_of_touched(self) -> Change:
        """The mean of at least one change; that of an embedding row is over the changes that contain it."""
        return self._merged(1 / self._count, touched=True)

    def _merged(self, scale: float, touched: bool) -> Change:
        assert self._dense is not None
        rows = {}
        for name, parts in self._rows.items():
            ids, place, counts = torch.cat([part.ids for part in parts]).unique(return_inverse=True, return_counts=True)
            values = parts[0].values.new_zeros(len(ids), parts[0].values.shape[1])
            values.index_add_(0, place, torch.cat([part.values for part in parts]))
            rows[name] = Rows(ids, values / counts[:, None].to(values.dtype) if touched else values)
        return Change(self._dense * scale, rows)


class StackedChanges:
    """M changes in one matrix of all parameters that any of them contains.

    Args:
        changes: at least one.

    Example:
        >>> stacked = StackedChanges([Change(torch.tensor([1.0, 0.0])), Change(torch.tensor([1.0, 2.0]))])
        >>> stacked.products().tolist()
        [[1.0, 1.0], [1.0, 5.0]]
    """

    def __init__(self, changes: Sequence[Change]) -> None:
        self._dense_MP = torch.stack([change.dense for change in changes])
        self._ids: dict[str, Tensor] = {}
        self._rows_MUD: dict[str, Tensor] = {}
        for name in dict.fromkeys(name for change in changes for name in change.rows):
            own = [change.rows.get(name) for change in changes]
            known = [rows for rows in own if rows is not None]
            ids_U = torch.cat([rows.ids for rows in known]).unique()
            values_MUD = known[0].values.new_zeros(len(changes), len(ids_U), known[0].values.shape[1])
            for place, rows in enumerate(own):
                if rows is not None:
                    values_MUD[place, torch.searchsorted(ids_U, rows.ids)] = rows.values
            self._ids[name], self._rows_MUD[name] = ids_U, values_MUD

    def products(self) -> Tensor:
        """Inner products of all pairs, [M, M]."""
        products_MM = self._dense_MP @ self._dense_MP.T
        for values_MUD in self._rows_MUD.values():
            flat = values_MUD.flatten(1)
            products_MM = products_MM + flat @ flat.T
        return products_MM

    def combine(self, weights_M: Tensor) -> Change:
        """The weighted sum of the changes."""
        rows = {
            name: Rows(self._ids[name], torch.einsum("m,mud->ud", weights_M, values_MUD))
            for name, values_MUD in self._rows_MUD.items()
        }
        return Change(weights_M @ self._dense_MP, rows)
