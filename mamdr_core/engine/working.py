"""Embedding rows of a stack of trajectories: compact copies of what they read, updated where a step touches them.

The paper's static and dynamic cache (section 4.5), for G trajectories at once: their tables stand one after another.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mamdr_core.engine.optimizers import InnerState, adagrad_change, move_by_adam
from mamdr_core.engine.parameters import Change, Rows, Scope, Theta, stacked_rows
from mamdr_core.engine.step_options import RowRule
from mamdr_core.engine.steps import ReadPlaces
from mamdr_core.models.tables import Table


@dataclass(frozen=True)
class Touched:
    """What the steps of a segment touch of some tables.

    Attributes:
        distinct: by step, the rows of the stack that it moves, ascending, int64 [V], followed by those of their
            moments, with Adam [3 V]; no list where the tables do not train.
    """

    distinct: list[Tensor]


@dataclass(frozen=True)
class TouchedRows(Touched):
    """What the steps of a segment touch of some tables, which are F fields.

    Attributes:
        places: by step, the row of the stack that each padded row of each field reads, int64 [G_s * F * B_s].
        inverse: by step, of each place its own among the V, or V for rows that do not move, int64 [G_s * F * B_s].
    """

    places: list[Tensor]
    inverse: list[Tensor]


@dataclass(frozen=True)
class _Part:
    """One table's rows in the stack: by row its id and its trajectory, int64 [T], and where they stand."""

    table: Table
    ids_T: Tensor
    of_T: Tensor
    span: slice


class StackedRows(ABC):
    """Rows of embedding tables of one width of G trajectories, in one matrix: a step moves all in one update.

    Args:
        tables: those with rows, which all have moments to carry on, or none.
        keys: by table, the rows that are read, trajectory * rows + id, ascending and distinct, int64 [T].
        thetas: where each trajectory starts.
        scopes: what each may change.
        trains: whether trajectories may change them.
        rule: how rows move.
        state: moments of a single trajectory to carry on; None: zeros.

    Attributes:
        names: of the fields that read them, see `mamdr_core.engine.compiled.PaddedBatch`.
        per_domain: each batch reads one row of each.
        trains: whether trajectories may change them.
        is_fresh: whether their moments start at zero.
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
        self._parts: list[_Part] = []
        start_TD, may_move_T = [], []
        limits = trains and any(scope.only for scope in scopes)
        self._count = 0
        for table, keys_T in zip(tables, keys, strict=True):
            span = slice(self._count, self._count + len(keys_T))
            part = _Part(table, keys_T % table.rows, keys_T // table.rows, span)
            self._parts.append(part)
            start_TD.append(stacked_rows(thetas, table, part.ids_T, part.of_T))
            if limits:
                may_move_T.append(_may_move(table, scopes, keys_T))
            self._count = span.stop
        self._static = torch.cat(start_TD)
        # One row more, which padding reads; moments, each with such a row too, follow.
        self._rule, self._copies = rule, rule.copies if trains else 1
        self._rows = self._static.new_zeros(self._copies * (self._count + 1), self._static.shape[1])
        self._rows[: self._count] = self._static
        if state and self._copies > 1:
            for part in self._parts:
                for own, moment in zip(
                    self._moments(part), state.tables[part.table.name].named().values(), strict=True
                ):
                    own.copy_(moment.index_select(0, part.ids_T))
        self._may_move_T = torch.cat(may_move_T) if limits else None
        self._of_T: Tensor | None = None

    @abstractmethod
    def touch(self, read: ReadPlaces) -> Touched:
        """What each of some steps touches."""

    @abstractmethod
    def read(self, touched: Touched, number: int) -> Tensor:
        """What a step of a segment reads, its fields one after another, [rows, D]."""

    def summed(self, touched: Touched, number: int, gradient: Tensor) -> Tensor:
        """The gradient of the rows that a step moves, [V, D]: of one that occurs twice the sum, with that of its L2.

        Args:
            touched, number: the segment's, and the step in it.
            gradient: of what was read, [rows, D].
        """
        distinct = touched.distinct[number]
        gradient_VD = self.sum_by_row(touched, number, gradient)
        if self._rule.l2:
            rows_VD = self._rows.index_select(0, distinct[: len(distinct) // self._copies])
            gradient_VD.add_(rows_VD, alpha=self._rule.l2)
        return gradient_VD

    @abstractmethod
    def sum_by_row(self, touched: Touched, number: int, gradient: Tensor) -> Tensor:
        """The sum of a step's gradients of each row that it moves, [V, D]; see `summed`."""

    def trajectory_of(self, distinct: Tensor) -> Tensor:
        """The trajectory of each of the rows that a step moves, int64 [V]."""
        if self._of_T is None:
            self._of_T = torch.cat([part.of_T for part in self._parts])
        return self._of_T.index_select(0, distinct[: len(distinct) // self._copies])

    def move(self, distinct: Tensor, gradient_VD: Tensor, count: Tensor, lr: float) -> None:
        """A step's update of the rows that it touched.

        Args:
            distinct: see `Touched`.
            gradient_VD: see `summed`.
            count: Adam's since the moments were zero, from 1, a float32 scalar on the device.
            lr: learning rate of the dense weights.
        """
        rate = lr * self._rule.factor
        if self._copies == 1 and not self._rule.decay:
            self._rows.index_add_(0, distinct, gradient_VD, alpha=-rate)
            return
        moved = self._rows.index_select(0, distinct)
        values_VD, *moments = moved.view(self._copies, *gradient_VD.shape).unbind(0)
        if self._rule.decay:
            values_VD.mul_(1 - lr * self._rule.decay)
        if self._rule.optimizer == "adam":
            first_VD, second_VD = moments
            move_by_adam(values_VD, gradient_VD, first_VD, second_VD, count, rate)
        elif self._rule.optimizer == "adagrad":
            values_VD.sub_(adagrad_change(gradient_VD, moments[0], rate))
        else:
            values_VD.sub_(gradient_VD, alpha=rate)
        self._rows.index_copy_(0, distinct, moved)

    def write_moments(self, state: InnerState) -> None:
        """Leave a single trajectory's moments in `state`, of tables that it has."""
        for part in self._parts if self._copies > 1 and not self.is_fresh else []:
            for own, moment in zip(self._moments(part), state.tables[part.table.name].named().values(), strict=True):
                moment.index_copy_(0, part.ids_T, own[:, : moment.shape[1]])

    def write_changes(self, changes: Sequence[Change]) -> None:
        """Add dynamic - static to each trajectory's change, of the rows that may move."""
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

    def _moments(self, part: _Part) -> list[Tensor]:
        """What the optimizer keeps of one table's rows, views [T, D]; one number a row stands in all columns."""
        return [self._rows[copy * (self._count + 1) :][part.span] for copy in range(1, self._copies)]

    def _with_moments(self, distinct_U: Tensor, before_S: Tensor, step_U: Tensor) -> Tensor:
        """Step by step the rows that it moves, and behind them their moments' rows, int64 [copies * U]."""
        if self._copies == 1:
            return distinct_U
        begin_U, size_U = before_S[step_U], before_S.diff()[step_U]
        place_U = torch.arange(len(distinct_U), device=distinct_U.device) + (self._copies - 1) * begin_U
        copy_C1 = torch.arange(self._copies, device=distinct_U.device)[:, None]
        moved = distinct_U.new_empty(self._copies * len(distinct_U))
        moved[place_U + copy_C1 * size_U] = distinct_U + copy_C1 * (self._count + 1)
        return moved


class StackedTables(StackedRows):
    """Tables of which each row of a batch, or each batch, reads one row.

    Args:
        tables: F of them.
        thetas, scopes, trains, rule, state: see `StackedRows`.
        ids_FN: by table, the id that each row of all steps reads, int64 [N]; of tables per domain each batch reads one.
        trajectory_N: the row's trajectory, int64 [N].

    Attributes:
        names: of the tables.
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

    def touch(self, read: ReadPlaces) -> TouchedRows:
        """What each of some steps touches."""
        nowhere, count = self._count, len(self._parts)
        sizes = [count * size for size in read.sizes]
        local_M, place_M = self._local_FN[:, read.span].flatten(), read.of_fields(count).flatten()
        step_M = read.step_N.repeat(count)
        places = place_M.new_full((sum(sizes),), nowhere)
        places[place_M] = local_M
        if not self.trains:
            return TouchedRows([], list(places.split(sizes)), [])
        if self._may_move_T is not None:
            moves_M = self._may_move_T[local_M]
            local_M, place_M, step_M = local_M[moves_M], place_M[moves_M], step_M[moves_M]
        keys, inverse_M = (step_M * (nowhere + 1) + local_M).unique(return_inverse=True)
        # Neither bincount nor a sum of sizes on the device: for both the host would wait for a GPU.
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
        size = len(touched.distinct[number]) // self._copies
        summed = gradient.new_zeros(size + 1, gradient.shape[1])
        return summed.index_add_(0, touched.inverse[number], gradient)[:-1]


def _may_move(table: Table, scopes: Sequence[Scope], keys_T: Tensor) -> Tensor:
    """By row of a table in the stack, whether its trajectory may move it."""
    limits = ((g, (scope.only or {}).get(table.name)) for g, scope in enumerate(scopes))
    only = {g: ids for g, ids in limits if ids is not None}
    if not only:
        return torch.ones_like(keys_T, dtype=torch.bool)
    may_move_T = torch.isin(keys_T, torch.cat([g * table.rows + ids for g, ids in only.items()]))
    if len(only) < len(scopes):
        limited_T = torch.isin(keys_T // table.rows, torch.tensor(list(only), device=keys_T.device))
        may_move_T |= ~limited_T
    return may_move_T
