"""The rows of an embedding table that a trajectory reads: the static and dynamic cache of the paper (section 4.5)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import ROW_STATES, InnerState, move_rows_by_adam, row_change, row_views
from mamdr_core.engine.parameters import Rows, Scope, Theta
from mamdr_core.engine.parts import FieldGradient
from mamdr_core.engine.step_options import RowRule
from mamdr_core.models.tables import Table


class CachedTable:
    """The rows of one table for one trajectory.

    Args:
        theta: start of the trajectory.
        table: the table.
        readers: the fields that read its rows: itself, and those that share them.
        visits: visits of the trajectory.
        scope: what the trajectory may change.
        state: moments to start from, if it has those of the table; otherwise zeros.
        rule: how rows are updated.

    Attributes:
        table: the table.
        readers: the fields that read its rows, by name.
        ids_U: the distinct ids that are read, ascending.
        static_UD: their rows at the start.
        dynamic_UD: their current rows; if a reader has several ids per row, followed by a row of zeros for padding.
        trains: whether the trajectory may change rows.
        local: positions in `dynamic_UD` by reader and visit, int64 [M], or [M, L] for several ids per row.
    """

    def __init__(
        self,
        theta: Theta,
        table: Table,
        readers: Sequence[Table],
        visits: Sequence[Visit],
        scope: Scope,
        state: InnerState | None,
        rule: RowRule,
    ) -> None:
        device = theta.shared.dense.device
        self.table = table
        self.readers = {reader.name: reader for reader in readers}
        ids_of = {reader.name: [visit.ids(reader.column).to(device) for visit in visits] for reader in readers}
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        read = [known_ids(reader, ids) for reader in readers for ids in ids_of[reader.name]]
        self.ids_U, local = torch.cat([nothing, *read]).unique(return_inverse=True)
        places = iter(local.split([len(ids) for ids in read]))
        self.local = {
            reader.name: [_with_padding(reader, ids, next(places), len(self.ids_U)) for ids in ids_of[reader.name]]
            for reader in readers
        }
        self.static_UD = theta.gather(table.name, self.ids_U)
        self.trains = scope.covers(table)
        self.dynamic_UD = self.static_UD.clone() if self.trains else self.static_UD
        if any(reader.length for reader in readers):
            self.dynamic_UD = torch.cat([self.static_UD, self.static_UD.new_zeros(1, table.width)])
        only = (scope.only or {}).get(table.name)
        self._may_move_U = None if only is None else torch.isin(self.ids_U, only)
        self._rule = rule
        kept = ROW_STATES.get(rule.optimizer) if self.trains else None
        self._moments = list(kept.zeros_like(self.static_UD).named().values()) if kept else []
        self._step_before = state.step if state else 0  # number of steps before the moments were zero
        if self._moments and state and table.name in state.tables:
            self._moments = [whole[self.ids_U] for whole in state.tables[table.name].named().values()]
            self._step_before = 0
        in_place = table.per_domain and self.trains and rule.optimizer == "adam"
        self._views = row_views([self.dynamic_UD, *self._moments]) if in_place else []

    def read(self, reader: str, visit: int, rows: slice | Tensor) -> Tensor:
        """Embeddings of a field at positions of a visit, [M, D] or [M, L, D], which require gradients if trained."""
        return self.dynamic_UD[self.local[reader][visit][rows]].requires_grad_(self.trains)

    def together(self, visit: int, gradients: Mapping[str, FieldGradient]) -> tuple[Tensor, Tensor]:
        """Concatenate the gradients of all readers, without padding.

        Args:
            visit: number of the visit.
            gradients: gradients by field, for at least one reader.

        Returns:
            Positions in `ids_U`, int64 [K], and gradients [K, D].
        """
        own = [name for name in self.readers if name in gradients]
        place_B = [self.local[name][visit][gradients[name][0]].flatten() for name in own]
        gradient_BD = [gradients[name][1].flatten(0, -2) for name in own]
        place, gradient = (parts[0] if len(own) == 1 else torch.cat(parts) for parts in (place_B, gradient_BD))
        if any(self.readers[name].length for name in own):
            known = place < len(self.ids_U)
            place, gradient = place[known], gradient[known]
        return place, gradient

    def touched(self, visit: int, gradients: Mapping[str, FieldGradient]) -> tuple[Tensor, Tensor]:
        """The rows that a batch reads and may change, and their gradients, summed over reads.

        Args:
            visit: number of the visit.
            gradients: gradients by field, for at least one reader.

        Returns:
            Positions in `ids_U`, int64 [V], and gradients including L2 regularisation, [V, D].
        """
        place_V, gradient_VD = self.together(visit, gradients)
        if not self.table.per_domain:  # a batch reads each row of a table per domain once
            place_V, inverse_B = place_V.unique(return_inverse=True)
            zeros_VD = gradient_VD.new_zeros(len(place_V), gradient_VD.shape[1])
            gradient_VD = zeros_VD.index_add_(0, inverse_B, gradient_VD)
        if self._may_move_U is not None:
            moves_V = self._may_move_U[place_V]
            place_V, gradient_VD = place_V[moves_V], gradient_VD[moves_V]
        if self._rule.l2:
            gradient_VD += self._rule.l2 * self.dynamic_UD[place_V]
        return place_V, gradient_VD

    def move(self, place_V: Tensor, gradient_VD: Tensor, count: int, lr: float) -> None:
        """Update the rows of a batch.

        Args:
            place_V, gradient_VD: see `touched`.
            count: number of the step, from 1.
            lr: learning rate of the dense weights.
        """
        if self._views:
            own_count = torch.tensor(float(count - self._step_before))
            rate, keep = lr * self._rule.factor, 1 - lr * self._rule.decay
            move_rows_by_adam(self._views, place_V, gradient_VD, own_count, rate, keep)
            return
        if self._rule.decay:
            self.dynamic_UD[place_V] *= 1 - lr * self._rule.decay
        own = [moments[place_V] for moments in self._moments]
        self.dynamic_UD[place_V] -= row_change(gradient_VD, own, self._rule, count - self._step_before, lr)
        for moments, advanced in zip(self._moments, own, strict=True):
            moments[place_V] = advanced

    def write_moments(self, state: InnerState) -> None:
        """Store the moments in `state` if it has those of the table."""
        if self._moments and self.table.name in state.tables:
            for whole, own in zip(state.tables[self.table.name].named().values(), self._moments, strict=True):
                whole[self.ids_U] = own

    def change(self) -> Rows:
        """Differences from the start, of the rows that may change."""
        difference_UD = self.dynamic_UD[: len(self.ids_U)] - self.static_UD
        if self._may_move_U is None:
            return Rows(self.ids_U, difference_UD)
        moved = self._may_move_U
        return Rows(self.ids_U[moved], difference_UD[moved])


def known_ids(table: Table, ids: Tensor) -> Tensor:
    """The ids that a table reads at some rows, int64 [M], without the padding of several ids per row."""
    return ids[ids > 0] if table.length else ids


def _with_padding(reader: Table, ids: Tensor, place_K: Tensor, nowhere: int) -> Tensor:
    """The positions `place_K` of known ids in the shape of `ids`, with `nowhere` for padding."""
    if not reader.length:
        return place_K
    return torch.full_like(ids, nowhere).masked_scatter_(ids > 0, place_K)
