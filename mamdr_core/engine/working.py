"""Embedding rows of a stack of trajectories: compact copies of what they read, updated where a step touches them.

The paper's static and dynamic cache (section 4.5), for G trajectories at once: their tables stand one after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mamdr_core.engine.optimizers import AdamMoments, AdamState, move_by_adam
from mamdr_core.engine.parameters import Change, Rows, Scope, Theta, stacked_rows
from mamdr_core.engine.steps import ReadPlaces
from mamdr_core.models.tables import Table


@dataclass(frozen=True)
class TouchedRows:
    """What the steps of a segment touch of one table.

    Attributes:
        places: by step, the row of the stacked table that each padded row reads, int64 [G * B_s].
        distinct: by step, those of them that it moves, ascending, int64 [V]; no list where the table does not train.
        inverse: by step, of each padded row its place in `distinct`, V for rows that do not move, int64 [G * B_s].
    """

    places: list[Tensor]
    distinct: list[Tensor]
    inverse: list[Tensor]


class StackedTable:
    """One embedding table of G trajectories.

    Args:
        table: which.
        thetas: where each trajectory starts.
        scopes: what each may change.
        ids_N: the id that each row of all steps reads, int64 [N]; of a table per domain each batch reads one.
        trajectory_N: the row's trajectory, int64 [N].
        trains: whether trajectories may change it.
        adam: keep moments.
        state: moments of a single trajectory to carry on, where it has some of the table; None: zeros.

    Attributes:
        local_N: the place of each row of all steps in the stacked table.
        trains: whether trajectories may change it.
        is_fresh: whether its moments start at zero.
    """

    def __init__(
        self,
        table: Table,
        thetas: Sequence[Theta],
        scopes: Sequence[Scope],
        ids_N: Tensor,
        trajectory_N: Tensor,
        trains: bool,
        adam: bool,
        state: AdamState | None,
    ) -> None:
        keys_T, self.local_N = (trajectory_N * table.rows + ids_N).unique(return_inverse=True)
        self._table = table
        self._ids_T = keys_T % table.rows
        self._of_T = keys_T // table.rows
        self.trains = trains
        start_TD = stacked_rows(thetas, table, self._ids_T, self._of_T)
        # One row more, which padding reads.
        self._dynamic = torch.cat([start_TD, start_TD.new_zeros(1, start_TD.shape[1])])
        self._static = start_TD
        self._moments = AdamMoments.zeros_like(start_TD) if trains and adam else None
        self.is_fresh = state is None or table.name not in state.tables
        if self._moments and state and not self.is_fresh:
            whole = state.tables[table.name]
            self._moments = AdamMoments(*(each.index_select(0, self._ids_T) for each in (whole.first, whole.second)))
        self._may_move_T = _may_move(table, scopes, keys_T) if trains else None

    def touch(self, read: ReadPlaces) -> TouchedRows:
        """What each of some steps touches."""
        nowhere = len(self._ids_T)
        sizes, place_N, step_N = read.sizes, read.place_N, read.step_N
        local_N = self.local_N[read.span]
        places = place_N.new_full((sum(sizes),), nowhere)
        places[place_N] = local_N
        if not self.trains:
            return TouchedRows(list(places.split(sizes)), [], [])
        if self._may_move_T is not None:
            moves_N = self._may_move_T[local_N]
            local_N, place_N, step_N = local_N[moves_N], place_N[moves_N], step_N[moves_N]
        keys, inverse_N = (step_N * (nowhere + 1) + local_N).unique(return_inverse=True)
        # Neither bincount nor a sum of sizes on the device: for both the host would wait for a GPU.
        before_S = torch.searchsorted(keys, torch.arange(len(sizes) + 1, device=keys.device) * (nowhere + 1))
        counts_S = before_S.diff()
        sizes_S = torch.tensor(sizes, device=keys.device)
        inverse = torch.repeat_interleave(counts_S, sizes_S, output_size=sum(sizes))
        inverse[place_N] = inverse_N - before_S[step_N]
        distinct = (keys % (nowhere + 1)).split(counts_S.tolist())
        return TouchedRows(list(places.split(sizes)), list(distinct), list(inverse.split(sizes)))

    def read(self, places: Tensor) -> Tensor:
        """Rows of the stacked table, [len(places), D]."""
        return self._dynamic.index_select(0, places)

    def update(self, distinct_V: Tensor, inverse: Tensor, gradient: Tensor, count: Tensor, lr: float) -> None:
        """A step's update of the rows that it touched; a row that occurs twice moves once, by the summed gradient.

        Args:
            distinct_V, inverse: see `TouchedRows`.
            gradient: of the padded rows, [G * B_s, D].
            count: Adam's since the moments were zero, from 1, a float32 scalar on the device.
            lr: learning rate.
        """
        summed = gradient.new_zeros(len(distinct_V) + 1, gradient.shape[1])
        gradient_VD = summed.index_add_(0, inverse, gradient)[:-1]
        if self._moments is None:
            self._dynamic.index_add_(0, distinct_V, gradient_VD, alpha=-lr)
            return
        whole = (self._dynamic, self._moments.first, self._moments.second)
        values_VD, first_VD, second_VD = (each.index_select(0, distinct_V) for each in whole)
        move_by_adam(values_VD, gradient_VD, first_VD, second_VD, count, lr)
        for each, moved_VD in zip(whole, (values_VD, first_VD, second_VD), strict=True):
            each.index_copy_(0, distinct_V, moved_VD)

    def write_moments(self, state: AdamState) -> None:
        """Leave a single trajectory's moments in `state`."""
        if self._moments is not None and self._table.name in state.tables:
            whole = state.tables[self._table.name]
            whole.first.index_copy_(0, self._ids_T, self._moments.first)
            whole.second.index_copy_(0, self._ids_T, self._moments.second)

    def write_changes(self, changes: Sequence[Change]) -> None:
        """Add dynamic - static to each trajectory's change, of the rows that may move."""
        if not self.trains:
            return
        difference_TD = self._dynamic[:-1] - self._static
        ids_T, of_T = self._ids_T, self._of_T
        if self._may_move_T is not None:
            difference_TD, ids_T, of_T = (part[self._may_move_T] for part in (difference_TD, ids_T, of_T))
        sizes = torch.bincount(of_T, minlength=len(changes)).tolist()
        for change, ids, values in zip(changes, ids_T.split(sizes), difference_TD.split(sizes), strict=True):
            change.rows[self._table.name] = Rows(ids, values)


def _may_move(table: Table, scopes: Sequence[Scope], keys_T: Tensor) -> Tensor | None:
    """By row of the stacked table, whether its trajectory may move it; None: all may."""
    limits = ((g, (scope.only or {}).get(table.name)) for g, scope in enumerate(scopes))
    only = {g: ids for g, ids in limits if ids is not None}
    if not only:
        return None
    may_move_T = torch.isin(keys_T, torch.cat([g * table.rows + ids for g, ids in only.items()]))
    if len(only) < len(scopes):
        limited_T = torch.isin(keys_T // table.rows, torch.tensor(list(only), device=keys_T.device))
        may_move_T |= ~limited_T
    return may_move_T
