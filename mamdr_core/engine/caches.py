"""The rows of an embedding table that a trajectory meets: the paper's static and dynamic cache (section 4.5)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import AdamMoments, AdamState, adam_change
from mamdr_core.engine.parameters import Rows, Scope, Theta
from mamdr_core.models.tables import Table


class CachedTable:
    """One table of one trajectory.

    Args:
        theta: where the trajectory starts.
        table: which.
        visits: what it meets.
        scope: what it may change.
        state: Adam's moments to carry on, where it has some of the table; None: zeros.
        adam: keep moments.

    Attributes:
        table: which.
        ids_U: the distinct ids that it meets, ascending.
        static_UD: their rows at the start.
        dynamic_UD: their rows now.
        trains: whether it may change rows.
        local: by visit, places in `ids_U`, int64 [M].
    """

    def __init__(
        self, theta: Theta, table: Table, visits: Sequence[Visit], scope: Scope, state: AdamState | None, adam: bool
    ) -> None:
        device = theta.shared.dense.device
        met = [visit.ids(table.column).to(device) for visit in visits]
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        self.ids_U, local = torch.cat([nothing, *met]).unique(return_inverse=True)
        self.local = list(local.split([len(ids) for ids in met]))
        self.static_UD = theta.gather(table.name, self.ids_U)
        self.trains = scope.covers(table.name)
        self.dynamic_UD = self.static_UD.clone() if self.trains else self.static_UD
        only = (scope.only or {}).get(table.name)
        self._may_move_U = None if only is None else torch.isin(self.ids_U, only)
        self.table = table
        self._moments = AdamMoments.zeros_like(self.static_UD) if self.trains and adam else None
        self._step_before = state.step if state else 0  # of Adam when the moments were zero
        if self._moments and state and table.name in state.tables:
            whole = state.tables[table.name]
            self._moments = AdamMoments(whole.first[self.ids_U], whole.second[self.ids_U])
            self._step_before = 0

    def step(self, visit: int, rows: slice | Tensor, gradient_BD: Tensor, count: int, lr: float) -> None:
        """Update only the rows that a batch touched; one that occurs twice is updated once, with the summed gradient.

        Args:
            visit: its number.
            rows: places of the visit at which the table was read.
            gradient_BD: of what was read there.
            count: Adam's, from 1.
            lr: learning rate.
        """
        place_V, inverse_B = self.local[visit][rows].unique(return_inverse=True)
        gradient_VD = gradient_BD.new_zeros(len(place_V), gradient_BD.shape[1]).index_add_(0, inverse_B, gradient_BD)
        if self._may_move_U is not None:
            moves_V = self._may_move_U[place_V]
            place_V, gradient_VD = place_V[moves_V], gradient_VD[moves_V]
        if self._moments is None:
            self.dynamic_UD[place_V] -= lr * gradient_VD
            return
        first_VD, second_VD = self._moments.first[place_V], self._moments.second[place_V]
        self.dynamic_UD[place_V] -= adam_change(gradient_VD, first_VD, second_VD, count - self._step_before, lr)
        self._moments.first[place_V], self._moments.second[place_V] = first_VD, second_VD

    def write_moments(self, state: AdamState) -> None:
        """Leave the moments in `state`, where it has some of the table."""
        if self._moments is not None and self.table.name in state.tables:
            state.tables[self.table.name].first[self.ids_U] = self._moments.first
            state.tables[self.table.name].second[self.ids_U] = self._moments.second

    def change(self) -> Rows:
        """Dynamic - static, of the rows that may move."""
        if self._may_move_U is None:
            return Rows(self.ids_U, self.dynamic_UD - self.static_UD)
        moved = self._may_move_U
        return Rows(self.ids_U[moved], self.dynamic_UD[moved] - self.static_UD[moved])
