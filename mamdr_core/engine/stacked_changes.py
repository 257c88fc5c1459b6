"""Several changes as rows of one matrix, so that their inner products and combinations are matrix products."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mamdr_core.engine.parameters import Change, Rows


class StackedChanges:
    """M changes side by side, in the coordinates that any of them touches.

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
            met = [rows for rows in own if rows is not None]
            ids_U = torch.cat([rows.ids for rows in met]).unique()
            values_MUD = met[0].values.new_zeros(len(changes), len(ids_U), met[0].values.shape[1])
            for place, rows in enumerate(own):
                if rows is not None:
                    values_MUD[place, torch.searchsorted(ids_U, rows.ids)] = rows.values
            self._ids[name], self._rows_MUD[name] = ids_U, values_MUD

    def products(self) -> Tensor:
        """Inner products of every two, [M, M]."""
        products_MM = self._dense_MP @ self._dense_MP.T
        for values_MUD in self._rows_MUD.values():
            flat = values_MUD.flatten(1)
            products_MM = products_MM + flat @ flat.T
        return products_MM

    def combine(self, weights_M: Tensor) -> Change:
        """The sum of the changes, each times its weight."""
        rows = {
            name: Rows(self._ids[name], torch.einsum("m,mud->ud", weights_M, values_MUD))
            for name, values_MUD in self._rows_MUD.items()
        }
        return Change(weights_M @ self._dense_MP, rows)
