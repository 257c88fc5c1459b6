"""Embedding rows of a stack of trajectories where some tables are read several times a row, by bags and sequences.

What a step reads is a sparse matrix times the rows, and what it moves is its transpose times the gradient: both are
`torch.embedding_bag`, which neither reads padding nor holds an embedding for each id of a row. A mean or a sum is a
bag of several ids; any other field has bags of one id or, at padding, of none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from mamdr_core.engine.optimizers import AdamState
from mamdr_core.engine.parameters import Scope, Theta
from mamdr_core.engine.steps import ReadPlaces
from mamdr_core.engine.working import StackedRows, Touched
from mamdr_core.models.pooling import is_linear, linear_weights
from mamdr_core.models.tables import Table

SEVERAL = "[]"
"""Behind the name of a field that is handed over with an embedding for each id of a row."""
_DENSE = 8
"""Rows of a table over ids read up to which these are numbered by an array over all rows, and not by sorting."""


@dataclass(frozen=True)
class Read:
    """What a field reads of a table's rows.

    Attributes:
        table: the field; its `source` has the rows.
        ids: int64 [N], or of several ids of a row [N, L], zeros behind them.
        weights: of the ids, float [N, L]; None: 1 each.
    """

    table: Table
    ids: Tensor
    weights: Tensor | None


@dataclass(frozen=True)
class TouchedBags(Touched):
    """What the steps of a segment read and move of some tables; every list is by step.

    Attributes:
        read: rows of the stack, int64 [K], where each bag of them begins, and their weights.
        moved: of each of the V rows, the bags that it is in, int64 [M], where they begin, and its weights there.
    """

    read: list[tuple[Tensor, Tensor, Tensor]]
    moved: list[tuple[Tensor, Tensor, Tensor]]


class StackedBags(StackedRows):
    """Tables of one width, some of them read several times a row.

    Args:
        tables: those with rows.
        reads: by table, what reads it.
        thetas, scopes, trains, adam, state: see `StackedRows`.
        trajectory_N: the row's trajectory, int64 [N].

    Attributes:
        names: of the fields; one that the model pools has its name as often as it has ids, with `SEVERAL` behind it.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        reads: Sequence[Sequence[Read]],
        thetas: Sequence[Theta],
        scopes: Sequence[Scope],
        trajectory_N: Tensor,
        trains: bool,
        adam: bool,
        state: AdamState | None,
    ) -> None:
        keys: list[Tensor] = []
        self._fields: list[tuple[Table, Tensor | None, Tensor]] = []
        begin = 0
        for table, own in zip(tables, reads, strict=True):
            of = [_keys(read, trajectory_N * table.rows) for read in own]
            known = [each >= 0 for each in of]
            keys_T, local = _numbered(
                torch.cat([each[here] for each, here in zip(of, known, strict=True)]), len(thetas) * table.rows
            )
            parts = local.split([int(here.sum()) for here in known])
            for read, here, places in zip(own, known, parts, strict=True):
                local_NL = torch.full(here.shape, -1, device=here.device, dtype=torch.int32)
                local_NL.masked_scatter_(here, (places + begin).int())
                self._fields.append((read.table, read.weights, local_NL.view(len(here), -1)))
            keys.append(keys_T)
            begin += len(keys_T)
        super().__init__(tables, keys, thetas, scopes, trains, adam, state)
        self.names = tuple(name for table, _, _ in self._fields for name in _names(table))

    def touch(self, at: ReadPlaces) -> TouchedBags:
        """What each of some steps touches."""
        count = len(self.names)
        sizes = [count * size for size in at.sizes]
        device, total = at.place_N.device, sum(sizes)
        first = 0
        locals_, bags, steps, weights, within = [], [], [], [], []
        for table, given, local in self._fields:
            local_NL, pools = local[at.span], is_linear(table)
            width = 1 if pools else local_NL.shape[1]
            known_NL = local_NL >= 0
            row_K, number_K = known_NL.nonzero().unbind(1)
            bag_N = at.begin_N * count + first * at.width_N + (at.place_N - at.begin_N) * width
            locals_.append(local_NL[known_NL].long())
            bags.append(bag_N[row_K] if pools else bag_N[row_K] + number_K)
            steps.append(at.step_N[row_K])
            if pools:
                weight_NL = known_NL.to(self._rows.dtype) if given is None else given[at.span].to(self._rows.dtype)
                weights.append(linear_weights(table, weight_NL)[known_NL])
            else:
                weights.append(self._rows.new_ones(len(row_K)))
            within.append(number_K if pools else torch.zeros_like(number_K))  # known ids come first
            first += width
        local_K, bag_K, step_K, weight_K = (torch.cat(each) for each in (locals_, bags, steps, weights))
        read_by_step = _by_step(*_in_bags(local_K, bag_K, weight_K, torch.cat(within), total), sizes)
        if not self.trains:
            return TouchedBags([], read_by_step, [])
        if self._may_move_T is not None:
            moves_K = self._may_move_T[local_K]
            local_K, bag_K, step_K, weight_K = (each[moves_K] for each in (local_K, bag_K, step_K, weight_K))
        starts_S = torch.tensor([0, *np.cumsum(sizes)[:-1]], device=device)
        sorted_K, order_K = _sorted(step_K * (self._count + 1) + local_K)
        rows_U, counts_U = sorted_K.unique_consecutive(return_counts=True)
        ends_S = torch.arange(len(sizes) + 1, device=device) * (self._count + 1)
        before_S = torch.searchsorted(rows_U, ends_S)
        starts_U = torch.cat([counts_U.new_zeros(1), counts_U.cumsum(0)])
        moved_by_step = _by_step(
            (bag_K - starts_S[step_K])[order_K], starts_U, weight_K[order_K], before_S.diff().tolist()
        )
        distinct = self._with_moments(rows_U % (self._count + 1), before_S, rows_U // (self._count + 1))
        moved_S = [self._copies * size for size in before_S.diff().tolist()]
        return TouchedBags(list(distinct.split(moved_S)), read_by_step, moved_by_step)

    def read(self, touched: Touched, number: int) -> Tensor:
        """See `StackedRows.read`, [bags, D]."""
        assert isinstance(touched, TouchedBags)
        return _bags_of(self._rows, touched.read[number])

    def summed(self, touched: Touched, number: int, gradient: Tensor) -> Tensor:
        """See `StackedRows.summed`; over the bags that a row is in."""
        assert isinstance(touched, TouchedBags)
        return _bags_of(gradient.to(self._rows.dtype), touched.moved[number])


def pooled_rows(table: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of several rows of a table that nothing trains, [..., D], of ids and weights [..., L]."""
    flat, own = ids.flatten(0, -2), weights.flatten(0, -2).to(table)
    pooled: Tensor = embedding_bag(flat, table, mode="sum", per_sample_weights=own).unflatten(0, ids.shape[:-1])
    return pooled


def _bags_of(rows_RD: Tensor, bags: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The weighted sum of each bag's rows, [bags, D]."""
    places, starts, weights = bags
    summed: Tensor = torch.embedding_bag(rows_RD, places, starts, False, 0, False, weights, True)[0]
    return summed


def _names(table: Table) -> list[str]:
    if not table.length or is_linear(table):
        return [table.name]
    return [table.name + SEVERAL] * table.length


def _keys(read: Read, of_N: Tensor) -> Tensor:
    """The rows that are read, `of_N` + id, [N] or [N, L]; -1 at padding."""
    if not read.table.length:
        return of_N + read.ids
    return torch.where(read.ids > 0, of_N[:, None] + read.ids, -1)


def _numbered(keys_K: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The distinct keys below `size`, ascending, and the place of each key among them."""
    if keys_K.device.type != "cpu" or size > _DENSE * len(keys_K):
        distinct_T, place_K = keys_K.unique(return_inverse=True)
        return distinct_T, place_K
    keys = keys_K.numpy()
    number = np.zeros(size, dtype=np.int64)
    number[keys] = 1
    distinct = np.flatnonzero(number)
    number[distinct] = np.arange(len(distinct))
    return torch.from_numpy(distinct), torch.from_numpy(number[keys])


def _sorted(keys_K: Tensor) -> tuple[Tensor, Tensor]:
    """Keys ascending, and where each stood, of equal ones in their order."""
    count = max(1, len(keys_K))
    if keys_K.device.type != "cpu" or not len(keys_K) or (int(keys_K.max()) + 1) * count >= 1 << 63:
        return keys_K.sort(stable=True)
    # numpy sorts plain numbers several times as fast as anything sorts places.
    both = torch.from_numpy(np.sort((keys_K * count + torch.arange(count)).numpy()))
    sorted_K = both.div(count, rounding_mode="floor")
    return sorted_K, both - sorted_K * count


def _in_bags(
    local_K: Tensor, bag_K: Tensor, weight_K: Tensor, within_K: Tensor, bags: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows by bag, where the bags begin and the last one ends, and the rows' weights.

    Args:
        local_K, bag_K, weight_K: rows, the bag of each, and its weight there.
        within_K: its place in the bag.
        bags: number of bags.
    """
    ends = torch.zeros(bags, dtype=torch.long, device=bag_K.device)
    ends.index_add_(0, bag_K, torch.ones_like(bag_K))
    starts = torch.cat([ends.new_zeros(1), ends.cumsum(0)])
    place_K = starts[bag_K] + within_K
    rows, weights = torch.empty_like(local_K), torch.empty_like(weight_K)
    rows[place_K], weights[place_K] = local_K, weight_K
    return rows, starts, weights


def _by_step(
    members: Tensor, starts: Tensor, weights: Tensor, bags_S: Sequence[int]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Bags cut by step, whose starts count from the step's first.

    Args:
        members, weights: of all bags, in order.
        starts: where each begins, and the end of the last one.
        bags_S: by step, its bags.
    """
    edges = np.cumsum([0, *bags_S])
    at = starts[torch.from_numpy(edges).to(starts.device)].tolist()
    return [
        (members[begin:end], starts[first : last + 1] - begin, weights[begin:end])
        for begin, end, first, last in zip(at, at[1:], edges.tolist(), edges[1:].tolist(), strict=False)
    ]
