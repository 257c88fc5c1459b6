"""The rows of an embedding table that a trajectory meets: the paper's static and dynamic cache (section 4.5)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import ROW_STATES, AdamState, row_change
from mamdr_core.engine.parameters import Rows, Scope, Theta
from mamdr_core.engine.step_options import RowRule
from mamdr_core.models.tables import Table


class CachedTable:
    """One table of one trajectory.

    Args:
        theta: where the trajectory starts.
        table: which.
        visits: what it meets.
        scope: what it may change.
        state: Adam's moments to carry on, where it has some of the table; None: zeros.
        rule: how its rows move.

    Attributes:
        table: which.
        ids_U: the distinct ids that it meets, ascending.
        static_UD: their rows at the start.
        dynamic_UD: their rows now.
        trains: whether it may change rows.
        local: by visit, places in `ids_U`, int64 [M].
    """

    def __init__(
        self, theta: Theta, table: Table, visits: Sequence[Visit], scope: Scope, state: AdamState | None, rule: RowRule
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
        self._rule = rule
        kept = ROW_STATES.get(rule.optimizer) if self.trains else None
        self._moments = list(kept.zeros_like(self.static_UD).named().values()) if kept else []
        self._step_before = state.step if state else 0  # of Adam when the moments were zero
        if self._moments and state and table.name in state.tables:
            self._moments = [whole[self.ids_U] for whole in state.tables[table.name].named().values()]
            self._step_before = 0

    def touched(self, visit: int, rows: slice | Tensor, gradient_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that a batch touches and may move, and their gradients, of one that occurs twice the sum.

        Args:
            visit: its number.
            rows: places of the visit at which the table was read.
            gradient_BD: of what was read there.

        Returns:
            Places in `ids_U`, int64 [V], and gradients with that of the rows' L2 regularisation, [V, D].
        """
        place_V, inverse_B = self.local[visit][rows].unique(return_inverse=True)
        gradient_VD = gradient_BD.new_zeros(len(place_V), gradient_BD.shape[1]).index_add_(0, inverse_B, gradient_BD)
        if self._may_move_U is not None:
            moves_V = self._may_move_U[place_V]
            place_V, gradient_VD = place_V[moves_V], gradient_VD[moves_V]
        if self._rule.l2:
            gradient_VD += self._rule.l2 * self.dynamic_UD[place_V]
        return place_V, gradient_VD

    def move(self, place_V: Tensor, gradient_VD: Tensor, count: int, lr: float) -> None:
        """Update rows that a batch touched; see `touched`.

        Args:
            place_V, gradient_VD: which rows, and along what.
            count: Adam's, from 1.
            lr: learning rate of the dense weights.
        """
        if self._rule.decay:
            self.dynamic_UD[place_V] *= 1 - lr * self._rule.decay
        own = [moments[place_V] for moments in self._moments]
        self.dynamic_UD[place_V] -= row_change(gradient_VD, own, self._rule, count - self._step_before, lr)
        for moments, advanced in zip(self._moments, own, strict=True):
            moments[place_V] = advanced

    def write_moments(self, state: AdamState) -> None:
        """Leave the moments in `state`, where it has some of the table."""
        if self._moments and self.table.name in state.tables:
            for whole, own in zip(state.tables[self.table.name].named().values(), self._moments, strict=True):
                whole[self.ids_U] = own

    def change(self) -> Rows:
        """Dynamic - static, of the rows that may move."""
        if self._may_move_U is None:
            return Rows(self.ids_U, self.dynamic_UD - self.static_UD)
        moved = self._may_move_U
        return Rows(self.ids_U[moved], self.dynamic_UD[moved] - self.static_UD[moved])
