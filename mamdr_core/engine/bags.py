"""Embedding rows of a stack of trajectories with bags and sequences, whose tables are read several times per row.

The embeddings of a step are a sparse matrix times the rows, and the gradients of the rows are its transpose times the
gradients of the embeddings. `torch.embedding_bag` computes both without padding and without an embedding for each id.
A pooled mean or sum is a bag of several ids; every other field has bags of one id, or empty bags for padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Scope, Theta
from mamdr_core.engine.step_options import RowRule
from mamdr_core.engine.steps import ReadPlaces
from mamdr_core.engine.working import StackedRows, Touched
from mamdr_core.models.pooling import is_linear, linear_weights
from mamdr_core.models.tables import Table

SEVERAL = "[]"
"""Suffix of the name of a field with an embedding for each id of a row, which the model pools."""
_DENSE = 8
"""Maximum ratio of rows of a table to ids that are numbered by an array of all rows; above it, by sorting."""


@dataclass(frozen=True)
class Read:
    """The ids that a field reads.

    Attributes:
        table: the field; the table `source` stores its rows.
        ids: int64 [N], or [N, L] for several ids per row, followed by zeros.
        weights: weights of the ids, float [N, L]; None: 1.
    """

    table: Table
    ids: Tensor
    weights: Tensor | None


@dataclass(frozen=True)
class TouchedBags(Touched):
    """`Touched` of tables with bags. Both attributes are sparse matrices in the format of `torch.embedding_bag`.

    Attributes:
        read: for each bag the rows of the stack: row numbers, int64 [K], start of each bag, and weights [K].
        moved: for each of the V updated rows the bags that contain it: bag numbers, int64 [M], starts and weights [M].
    """

    read: list[tuple[Tensor, Tensor, Tensor]]
    moved: list[tuple[Tensor, Tensor, Tensor]]


class StackedBags(StackedRows):
    """Tables of one width, some of which are read several times per row.

    Args:
        tables: tables that store their rows.
        reads: the fields that read each table.
        thetas, scopes, trains, rule, state: see `StackedRows`.
        trajectory_N: trajectory of each row of the steps, int64 [N].
    """

    def __init__(
        self,
        tables: Sequence[Table],
        reads: Sequence[Sequence[Read]],
        thetas: Sequence[Theta],
        scopes: Sequence[Scope],
        trajectory_N: Tensor,
        trains: bool,
        rule: RowRule,
        state: InnerState | None,
    ) -> None:
        keys: list[Tensor] = []
        self._fields: list[_Field] = []
        begin = 0
        for table, own in zip(tables, reads, strict=True):
            packed = [_Packed.of(read.table, read.ids) for read in own]
            rows = [trajectory_N.index_select(0, each.row_K) * table.rows + each.ids_K for each in packed]
            keys_T, local = _number_keys(torch.cat(rows), len(thetas) * table.rows)
            for read, each, local_K in zip(own, packed, local.split([len(part) for part in rows]), strict=True):
                weights_K = _weights(read, each, thetas[0].shared.dense.dtype)
                self._fields.append(_Field(read.table, each.starts, (local_K + begin).int(), weights_K))
            keys.append(keys_T)
            begin += len(keys_T)
        super().__init__(tables, keys, thetas, scopes, trains, rule, state)
        self.names = tuple(name for field in self._fields for name in _field_names(field.table))

    def touch(self, at: ReadPlaces) -> TouchedBags:
        """See `StackedRows.touch`."""
        sizes = [len(self.names) * size for size in at.sizes]
        local_K, bag_K, step_K, weight_K, read_K, own_K, starts = self._members(at, sum(sizes))
        read_by_step = _split_by_step(read_K, own_K, starts, sizes)
        if not self.trains:
            return TouchedBags([], read_by_step, [])
        if self._may_move_T is not None:
            moves_K = self._may_move_T[local_K]
            local_K, bag_K, step_K, weight_K = (each[moves_K] for each in (local_K, bag_K, step_K, weight_K))
        device = bag_K.device
        bits = self._count.bit_length()
        sorted_K, order_K = _sort_keys(step_K << bits | local_K)
        rows_U, counts_U = sorted_K.unique_consecutive(return_counts=True)
        before_S = torch.searchsorted(rows_U, torch.arange(len(sizes) + 1, device=device) << bits)
        rows_S = before_S.diff().tolist()
        starts_S = torch.tensor([0, *np.cumsum(sizes)[:-1]], device=device)
        starts_U = torch.cat([counts_U.new_zeros(1), counts_U.cumsum(0)])
        moved_by_step = _split_by_step(
            (bag_K - starts_S[step_K]).index_select(0, order_K), weight_K.index_select(0, order_K), starts_U, rows_S
        )
        distinct = self._with_moments(rows_U & (1 << bits) - 1, before_S, rows_U >> bits)
        moved_S = [self._copies * size for size in rows_S]
        return TouchedBags(list(distinct.split(moved_S)), read_by_step, moved_by_step)

    def _members(self, at: ReadPlaces, bags: int) -> tuple[Tensor, ...]:
        """Row, bag, step and weight of each id that steps read; rows and weights in the order of bags; their starts."""
        count, first, places = len(self.names), 0, len(at.place_N)
        sizes = at.place_N.new_zeros(bags)
        found: list[tuple[Tensor, ...]] = []
        for field in self._fields:
            starts_N = field.starts[at.span.start : at.span.stop + 1]
            begin, end = starts_N[[0, -1]].tolist()
            pools = not field.table.length or is_linear(field.table)
            width = 1 if pools else field.table.length
            bag_N = at.begin_N * count + first * at.width_N + (at.place_N - at.begin_N) * width
            row_K = _row_of_ids(starts_N, places, end - begin)
            bag_K, number_K = bag_N.index_select(0, row_K), torch.zeros_like(row_K)
            if field.table.length:
                number_K = torch.arange(begin, end, device=row_K.device) - starts_N.index_select(0, row_K)
            if pools:
                sizes[bag_N] = starts_N.diff()
            else:
                bag_K, number_K = bag_K + number_K, torch.zeros_like(number_K)  # known ids come first
                sizes[bag_K] = 1
            weights_K = field.weights_K
            own_K = self._rows.new_ones(end - begin) if weights_K is None else weights_K[begin:end]
            local_K = field.local_K[begin:end].long()
            found.append((local_K, bag_K, at.step_N.index_select(0, row_K), own_K, number_K))
            first += width
        local_K, bag_K, step_K, weight_K, number_K = (torch.cat(parts) for parts in zip(*found, strict=True))
        starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        place_K = starts.index_select(0, bag_K) + number_K
        rows, weights = torch.empty_like(local_K), torch.empty_like(weight_K)
        rows[place_K], weights[place_K] = local_K, weight_K
        return local_K, bag_K, step_K, weight_K, rows, weights, starts

    def read(self, touched: Touched, number: int) -> Tensor:
        """See `StackedRows.read`, [bags, D]."""
        assert isinstance(touched, TouchedBags)
        return _bags_of(self._rows, touched.read[number])

    def sum_by_row(self, touched: Touched, number: int, gradient: Tensor) -> Tensor:
        """See `StackedRows.sum_by_row`."""
        assert isinstance(touched, TouchedBags)
        return _bags_of(gradient.to(self._rows.dtype), touched.moved[number])


def pooled_rows(table: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of a table that is not trained, [..., D], for ids and weights [..., L]."""
    flat, own = ids.flatten(0, -2), weights.flatten(0, -2).to(table)
    pooled: Tensor = embedding_bag(flat, table, mode="sum", per_sample_weights=own).unflatten(0, ids.shape[:-1])
    return pooled


def _bags_of(rows_RD: Tensor, bags: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The weighted sum of the rows of each bag, [bags, D]."""
    places, starts, weights = bags
    summed: Tensor = torch.embedding_bag(rows_RD, places, starts, False, 0, False, weights, True)[0]
    return summed


@dataclass(frozen=True)
class _Packed:
    """The ids of rows without padding.

    Attributes:
        ids_K: the ids, row by row.
        row_K: row of each id.
        starts: position of the first id of each row, and K, [N + 1].
        flat_K: positions of the ids among padded ids; None: there is no padding.
    """

    ids_K: Tensor
    row_K: Tensor
    starts: Tensor
    flat_K: Tensor | None

    @classmethod
    def of(cls, table: Table, ids: Tensor) -> "_Packed":
        """Remove the padding of ids [N], or [N, L] for several ids per row."""
        if not table.length:
            return cls(
                ids, torch.arange(len(ids), device=ids.device), torch.arange(len(ids) + 1, device=ids.device), None
            )
        known_NL = ids.view(-1, table.length) > 0
        starts = torch.cat([ids.new_zeros(1), known_NL.sum(1).cumsum(0)])
        flat_K = known_NL.view(-1).nonzero().squeeze(1)
        return cls(
            ids.reshape(-1).index_select(0, flat_K), _row_of_ids(starts, len(known_NL), len(flat_K)), starts, flat_K
        )


@dataclass(frozen=True)
class _Field:
    """A field of the stack: for each row the start of its ids, and for each id the row of the stack and the weight.

    Attributes:
        table: the field.
        starts: see `_Packed`.
        local_K: row of the stack of each id.
        weights_K: weight of each id; None: 1.
    """

    table: Table
    starts: Tensor
    local_K: Tensor
    weights_K: Tensor | None


def _row_of_ids(starts_N: Tensor, rows: int, size: int) -> Tensor:
    """The row of each of `size` ids, for the positions `starts_N` [rows + 1] of the first id of each row."""
    every = torch.arange(rows, device=starts_N.device)
    return torch.repeat_interleave(every, starts_N.diff(), output_size=size)


def _weights(read: Read, packed: _Packed, dtype: torch.dtype) -> Tensor | None:
    """The weights of the ids of a field that is pooled here; None: 1."""
    if not is_linear(read.table) or packed.flat_K is None:
        return None
    if read.weights is not None:
        return linear_weights(read.table, read.weights.to(dtype)).reshape(-1)[packed.flat_K]
    if read.table.pooling == "sum":
        return None
    return (1 / packed.starts.diff().to(dtype)).index_select(0, packed.row_K)


def _field_names(table: Table) -> list[str]:
    if not table.length or is_linear(table):
        return [table.name]
    return [table.name + SEVERAL] * table.length


def _number_keys(keys_K: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The distinct keys, ascending, and the position of each key among them; all keys are below `size`."""
    if keys_K.device.type != "cpu" or size > _DENSE * len(keys_K):
        distinct_T, place_K = keys_K.unique(return_inverse=True)
        return distinct_T, place_K
    keys = keys_K.numpy()
    number = np.zeros(size, dtype=np.int64)
    number[keys] = 1
    distinct = np.flatnonzero(number)
    number[distinct] = np.arange(len(distinct))
    return torch.from_numpy(distinct), torch.from_numpy(number[keys])


def _sort_keys(keys_K: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted keys, and the stable permutation that sorts them."""
    bits = len(keys_K).bit_length()
    if keys_K.device.type != "cpu" or not len(keys_K) or int(keys_K.max()) >> 62 - bits:
        sorted_K, order_K = keys_K.sort(stable=True)
        return sorted_K, order_K
    # Sorting numbers with numpy is several times as fast as any argsort.
    both = torch.from_numpy(np.sort((keys_K << bits | torch.arange(len(keys_K))).numpy()))
    return both >> bits, both & (1 << bits) - 1


def _split_by_step(
    members: Tensor, weights: Tensor, starts: Tensor, bags_S: Sequence[int]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Split bags by step; the starts of a step count from its first member.

    Args:
        members, weights: members of all bags, in order, and their weights.
        starts: start of each bag, and the end of the last one.
        bags_S: number of bags of each step.
    """
    edges = np.cumsum([0, *bags_S])
    at = starts[torch.from_numpy(edges).to(starts.device)].tolist()
    return [
        (members[begin:end], starts[first : last + 1] - begin, weights[begin:end])
        for begin, end, first, last in zip(at, at[1:], edges.tolist(), edges[1:].tolist(), strict=False)
    ]
