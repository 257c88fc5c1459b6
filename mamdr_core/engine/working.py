"""Embedding rows of a stack of trajectories: copies of the rows that they read, which steps update.

This is the static and dynamic cache of the paper (section 4.5) for G trajectories at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mamdr_core.engine.optimizers import InnerState, adagrad_change, move_by_adam, move_rows_by_adam, row_views
from mamdr_core.engine.parameters import Change, Rows, Scope, Theta, stacked_rows
from mamdr_core.engine.step_options import RowRule
from mamdr_core.engine.steps import ReadPlaces
from mamdr_core.models.tables import Table


@dataclass(frozen=True)
class Touched:
    """The rows of tables that the steps of a segment read and update; every list is by step.

    Attributes:
        distinct: the V rows that a step updates, each once, followed by the rows of their moments, int64: [V] with sgd,
            [3 V] with Adam. Empty list if the tables are not trained.
    """

    distinct: list[Tensor]


@dataclass(frozen=True)
class TouchedRows(Touched):
    """`Touched` of tables that are F fields.

    Attributes:
        places: the row that each padded row of each field reads, int64 [G_s * F * B_s].
        inverse: position of this row among the V updated ones, or V if it is not updated, int64 [G_s * F * B_s]. Empty
            list if steps update the rows that they read, in that order.
    """

    places: list[Tensor]
    inverse: list[Tensor]


@dataclass(frozen=True)
class _TableSpan:
    """The rows of one table: ids and trajectories, int64 [T], and their range in the matrix of the stack."""

    table: Table
    ids_T: Tensor
    of_T: Tensor
    span: slice


class StackedRows(ABC):
    """Rows of tables of one width for G trajectories in one matrix, which a step updates at once.

    Args:
        tables: tables that store their rows; either all or none have moments in `state`.
        keys: the distinct rows of each table that are read, trajectory * rows + id, ascending, int64 [T].
        thetas: start of each trajectory.
        scopes: what each trajectory may change.
        trains: whether trajectories may change the tables.
        rule: how rows are updated.
        state: moments that a single trajectory starts from; None: zeros.

    Attributes:
        names: names of the fields that read the tables, see `mamdr_core.engine.compiled.PaddedBatch`.
        per_domain: whether a batch reads one row of each table for each of its domains.
        trains: whether trajectories may change the tables.
        is_fresh: whether moments start at zero.
    """

    names: tuple[str, ...]

    def __init__(
        self,
        tables: Sequence[Table],
        keys: Sequence[Tensor],
        thetas: Sequence[Theta],
        scopes: Sequence[Scope],
        trains: bool,
        rule: RowRule,
        state: InnerState | None,
    ) -> None:
        self.per_domain = tables[0].per_domain
        self.trains = trains
        self.is_fresh = state is None
        self._parts: list[_TableSpan] = []
        start_TD, may_move_T = [], []
        limits = trains and any(scope.only for scope in scopes)
        self._count = 0
        for table, keys_T in zip(tables, keys, strict=True):
            span = slice(self._count, self._count + len(keys_T))
            part = _TableSpan(table, keys_T % table.rows, keys_T // table.rows, span)
            self._parts.append(part)
            start_TD.append(stacked_rows(thetas, table, part.ids_T, part.of_T))
            if limits:
                may_move_T.append(_may_move(table, scopes, keys_T))
            self._count = span.stop
        self._static = torch.cat(start_TD)
        # An additional row is read by padding. Moments follow, each with such a row.
        self._rule, self._copies = rule, rule.copies if trains else 1
        self._rows = self._static.new_zeros(self._copies * (self._count + 1), self._static.shape[1])
        self._rows[: self._count] = self._static
        if state and self._copies > 1:
            for part in self._parts:
                for own, moment in zip(
                    self._moments(part), state.tables[part.table.name].named().values(), strict=True
                ):
                    own.copy_(moment.index_select(0, part.ids_T))
        in_place = self.per_domain and trains and rule.optimizer == "adam"
        self._views = row_views(self._rows.split(self._count + 1)) if in_place else []
        self._may_move_T = torch.cat(may_move_T) if limits else None
        self._of_T: Tensor | None = None

    @abstractmethod
    def touch(self, at: ReadPlaces) -> Touched:
        """Find the rows that the steps of a segment read and update."""

    @abstractmethod
    def read(self, touched: Touched, number: int) -> Tensor:
        """The embeddings of a step of a segment, its fields concatenated, [rows, D]."""

    def row_gradients(self, touched: Touched, number: int, gradient: Tensor) -> Tensor:
        """The gradient of each row that a step updates, summed over its reads, with L2 regularisation, [V, D].

        Args:
            touched: the rows of the segment.
            number: position of the step in the segment.
            gradient: gradient of the embeddings that the step read, [rows, D].
        """
        distinct = touched.distinct[number]
        gradient_VD = self.sum_by_row(touched, number, gradient)
        if self._rule.l2:
            rows_VD = self._rows.index_select(0, distinct[: len(distinct) // self._copies])
            gradient_VD.add_(rows_VD, alpha=self._rule.l2)
        return gradient_VD

    @abstractmethod
    def sum_by_row(self, touched: Touched, number: int, gradient: Tensor) -> Tensor:
        """The gradient of each row that a step updates, summed over its reads, [V, D]; see `row_gradients`."""

    def trajectory_of(self, distinct: Tensor) -> Tensor:
        """The trajectories of the rows that a step updates, int64 [V]."""
        if self._of_T is None:
            self._of_T = torch.cat([part.of_T for part in self._parts])
        return self._of_T.index_select(0, distinct[: len(distinct) // self._copies])

    def move(self, distinct: Tensor, gradient_VD: Tensor, count: Tensor, lr: float) -> None:
        """Update the rows that a step touched.

        Args:
            distinct: see `Touched`.
            gradient_VD: see `row_gradients`.
            count: number of steps since the moments were zero, from 1, a float32 scalar on the device.
            lr: learning rate of the dense weights.
        """
        rate = lr * self._rule.factor
        if self._copies == 1 and not self._rule.decay:
            self._rows.index_add_(0, distinct, gradient_VD, alpha=-rate)
            return
        if self._views:
            place_V = distinct[: len(gradient_VD)]
            move_rows_by_adam(self._views, place_V, gradient_VD, count, rate, 1 - lr * self._rule.decay)
            return
        moved = self._rows.index_select(0, distinct)
        values_VD, *moments = moved.view(self._copies, *gradient_VD.shape).unbind(0)
        if self._rule.decay:
            values_VD.mul_(1 - lr * self._rule.decay)
        if self._rule.optimizer == "adam":
            first_VD, second_VD = moments
            move_by_adam([values_VD], [gradient_VD], [first_VD], [second_VD], count, rate)
        elif self._rule.optimizer == "adagrad":
            values_VD.sub_(adagrad_change(gradient_VD, moments[0], rate))
        else:
            values_VD.sub_(gradient_VD, alpha=rate)
        self._rows.index_copy_(0, distinct, moved)

    def write_moments(self, state: InnerState) -> None:
        """Store the moments of a single trajectory in `state`, for the tables that it has."""
        for part in self._parts if self._copies > 1 and not self.is_fresh else []:
            for own, moment in zip(self._moments(part), state.tables[part.table.name].named().values(), strict=True):
                moment.index_copy_(0, part.ids_T, own[:, : moment.shape[1]])

    def write_changes(self, changes: Sequence[Change]) -> None:
        """Store the differences from the start in the changes of the trajectories, for rows that they may change."""
        if not self.trains:
            return
        difference_TD = self._rows[: self._count] - self._static
        for part in self._parts:
            values, ids, of = difference_TD[part.span], part.ids_T, part.of_T
            if self._may_move_T is not None:
                moves = self._may_move_T[part.span]
                values, ids, of = values[moves], ids[moves], of[moves]
            sizes = torch.bincount(of, minlength=len(changes)).tolist()
            for change, own_ids, own in zip(changes, ids.split(sizes), values.split(sizes), strict=True):
                change.rows[part.table.name] = Rows(own_ids, own)

    def _moments(self, part: _TableSpan) -> list[Tensor]:
        """State of the optimizer for the rows of a table, views [T, D]; one number per row is in all columns."""
        return [self._rows[copy * (self._count + 1) :][part.span] for copy in range(1, self._copies)]

    def _with_moments(self, distinct_U: Tensor, before_S: Tensor, step_U: Tensor) -> Tensor:
        """Append to the rows that each step updates the rows of their moments, int64 [copies * U]."""
        if self._copies == 1:
            return distinct_U
        begin_U, size_U = before_S[step_U], before_S.diff()[step_U]
        place_U = torch.arange(len(distinct_U), device=distinct_U.device) + (self._copies - 1) * begin_U
        copy_C1 = torch.arange(self._copies, device=distinct_U.device)[:, None]
        moved = distinct_U.new_empty(self._copies * len(distinct_U))
        moved[place_U + copy_C1 * size_U] = distinct_U + copy_C1 * (self._count + 1)
        return moved


class StackedTables(StackedRows):
    """Tables of which every row of a batch, or every domain of a batch, reads one row.

    Args:
        tables: F tables.
        thetas, scopes, trains, rule, state: see `StackedRows`.
        ids_FN: ids that all steps read from each table, int64 [N].
        trajectory_N: trajectory of each read, int64 [N].
    """

    def __init__(
        self,
        tables: Sequence[Table],
        thetas: Sequence[Theta],
        scopes: Sequence[Scope],
        ids_FN: Sequence[Tensor],
        trajectory_N: Tensor,
        trains: bool,
        rule: RowRule,
        state: InnerState | None,
    ) -> None:
        found = [
            (trajectory_N * table.rows + ids_N).unique(return_inverse=True)
            for table, ids_N in zip(tables, ids_FN, strict=True)
        ]
        super().__init__(tables, [keys_T for keys_T, _ in found], thetas, scopes, trains, rule, state)
        self.names = tuple(table.name for table in tables)
        self._local_FN = torch.stack(
            [local_N + part.span.start for (_, local_N), part in zip(found, self._parts, strict=True)]
        )

    def touch(self, at: ReadPlaces) -> TouchedRows:
        """See `StackedRows.touch`."""
        nowhere, count = self._count, len(self._parts)
        sizes = [count * size for size in at.sizes]
        local_M, place_M = self._local_FN[:, at.span].flatten(), at.of_fields(count).flatten()
        step_M = at.step_N.repeat(count)
        places = place_M.new_full((sum(sizes),), nowhere)
        places[place_M] = local_M
        if not self.trains:
            return TouchedRows([], list(places.split(sizes)), [])
        if self.per_domain and self._may_move_T is None:  # a step reads the row of each of its domains once
            before_S, step_P = torch.tensor([0, *np.cumsum(sizes)], device=places.device), places.new_empty(sum(sizes))
            step_P[place_M] = step_M
            moved = self._with_moments(places, before_S, step_P).split([self._copies * size for size in sizes])
            return TouchedRows(list(moved), list(places.split(sizes)), [])
        if self._may_move_T is not None:
            moves_M = self._may_move_T[local_M]
            local_M, place_M, step_M = local_M[moves_M], place_M[moves_M], step_M[moves_M]
        keys, inverse_M = (step_M * (nowhere + 1) + local_M).unique(return_inverse=True)
        # Without bincount and sums of sizes on the device, for which the host would wait for a GPU.
        before_S = torch.searchsorted(keys, torch.arange(len(sizes) + 1, device=keys.device) * (nowhere + 1))
        counts_S = before_S.diff()
        sizes_S = torch.tensor(sizes, device=keys.device)
        inverse = torch.repeat_interleave(counts_S, sizes_S, output_size=sum(sizes))
        inverse[place_M] = inverse_M - before_S[step_M]
        moved = self._with_moments(keys % (nowhere + 1), before_S, keys // (nowhere + 1))
        distinct = moved.split([self._copies * size for size in counts_S.tolist()])
        return TouchedRows(list(distinct), list(places.split(sizes)), list(inverse.split(sizes)))

    def read(self, touched: Touched, number: int) -> Tensor:
        """See `StackedRows.read`, [G_s * F * B_s, D]."""
        assert isinstance(touched, TouchedRows)
        return self._rows.index_select(0, touched.places[number])

    def sum_by_row(self, touched: Touched, number: int, gradient: Tensor) -> Tensor:
        """See `StackedRows.sum_by_row`."""
        assert isinstance(touched, TouchedRows)
        if not touched.inverse:
            return gradient
        size = len(touched.distinct[number]) // self._copies
        summed = gradient.new_zeros(size + 1, gradient.shape[1])
        return summed.index_add_(0, touched.inverse[number], gradient)[:-1]


def _may_move(table: Table, scopes: Sequence[Scope], keys_T: Tensor) -> Tensor:
    """Mask of the rows of a table that their trajectories may change, bool [T]."""
    limits = ((g, (scope.only or {}).get(table.name)) for g, scope in enumerate(scopes))
    only = {g: ids for g, ids in limits if ids is not None}
    if not only:
        return torch.ones_like(keys_T, dtype=torch.bool)
    may_move_T = torch.isin(keys_T, torch.cat([g * table.rows + ids for g, ids in only.items()]))
    if len(only) < len(scopes):
        limited_T = torch.isin(keys_T // table.rows, torch.tensor(list(only), device=keys_T.device))
        may_move_T |= ~limited_T
    return may_move_T
