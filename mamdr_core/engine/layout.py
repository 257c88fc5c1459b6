"""Prepares the rows of the steps of a stack on the device: ids, labels, weights and positions of embedding rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.bags import Read, StackedBags
from mamdr_core.engine.columns import Columns, FrozenTables, shares_of
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Scope
from mamdr_core.engine.stacking import Trajectory
from mamdr_core.engine.step_options import RowRule
from mamdr_core.engine.steps import Batch, ReadPlaces, RowReader, Steps, lay_steps, ranges
from mamdr_core.engine.working import StackedRows, StackedTables, Touched
from mamdr_core.models.pooling import is_linear
from mamdr_core.models.tables import Table, owners, readers

SEGMENT_ROWS = 1 << 16
"""Maximum number of padded rows of a segment: the steps whose rows are prepared at a time."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Trajectories that run together.

    Attributes:
        trajectories: the G trajectories, in descending order of their number of steps.
        steps: all their steps.
        tables: copies of the embedding rows that they read; similar tables are together.
        lookups: tables by name that are read without a copy of their rows, since nothing changes them.
        segment_rows: maximum number of padded rows of a segment.
    """

    trajectories: Sequence[Trajectory]
    steps: Steps
    tables: list[StackedRows]
    lookups: dict[str, Tensor]
    segment_rows: int


@dataclass(frozen=True)
class Layout:
    """The inputs of a segment of a stack's steps; every list is by step.

    Attributes:
        steps: the steps.
        touched: rows of each of `Stack.tables` that the steps read and update.
        looked_up: ids of the fields of `Stack.lookups`, int64 [G_s, B_s], or [G_s, B_s, L] for several ids per row;
            for a table per domain [G_s, 1], or [1, groups] if batches contain several domains.
        several: weights of several ids by the name of their field, [G_s, B_s, L].
        numeric: float [G_s, B_s, K]; empty without numeric features.
        labels, base, weights: [G_s, B_s]; the weights of a batch have sum 1, or 0 if all are 0; padding has 0.
        groups: number of rows of each group, including padding in the last one, int64 [groups] on the CPU; empty if
            each batch contains one domain.
    """

    steps: Steps
    touched: list[Touched]
    looked_up: dict[str, list[Tensor]]
    several: dict[str, list[Tensor]]
    numeric: list[Tensor]
    labels: list[Tensor]
    base: list[Tensor]
    weights: list[Tensor]
    groups: list[Tensor]


def open_stack(
    trajectories: Sequence[Trajectory],
    tables: Sequence[Table],
    frozen: FrozenTables,
    batch_size: int,
    device: torch.device,
    rule: Callable[[Table], RowRule],
    state: InnerState | None,
) -> Stack:
    """Copy the embedding rows that trajectories read.

    Args:
        trajectories: trajectories of one theta_S and of scopes with the same tables, in descending order of their
            number of steps.
        tables: embedding tables and fixed vectors.
        frozen: the fixed vectors.
        batch_size: maximum number of rows of a step.
        device: device of the rows.
        rule: update rule of a table's rows.
        state: moments that a single trajectory starts from; None: zeros.
    """
    steps = lay_steps([trajectory.visits for trajectory in trajectories], batch_size)
    batches = steps.flat()
    reader = RowReader(batches, device)
    of_batch = np.array([batch.trajectory for batch in batches], dtype=np.int64)
    trajectory_N = torch.from_numpy(np.repeat(of_batch, reader.lengths)).to(device)
    trajectory_of_group = torch.from_numpy(np.repeat(of_batch, [batch.group_count for batch in batches])).to(device)
    scopes = [trajectory.scope for trajectory in trajectories]
    lookups = {**frozen, **_unchanged_tables(trajectories, tables)}
    stacked: list[StackedRows] = []
    for alike in _group_tables([t for t in owners(tables) if t.name not in lookups], tables, scopes[0], state, rule):
        thetas = [trajectory.theta for trajectory in trajectories]
        trains = scopes[0].covers(alike[0])
        carried = state if state and alike[0].name in state.tables else None
        if _reads_several(alike, tables):
            reads = [[_field_read(field, reader) for field in readers(tables, table.name)] for table in alike]
            stacked.append(StackedBags(alike, reads, thetas, scopes, trajectory_N, trains, rule(alike[0]), carried))
            continue
        per_domain = alike[0].per_domain
        ids = [reader.first_ids(table.column) if per_domain else reader.ids(table.column) for table in alike]
        of = trajectory_of_group if per_domain else trajectory_N
        stacked.append(StackedTables(alike, thetas, scopes, ids, of, trains, rule(alike[0]), carried))
    positions = sum(table.length for table in tables)
    return Stack(trajectories, steps, stacked, lookups, max(1, SEGMENT_ROWS // (1 + positions // 8)))


def _field_read(field: Table, reader: RowReader) -> Read:
    """The ids and weights of a field at the rows of batches."""
    return Read(field, reader.ids(field.column), reader.bag_weights(field.column) if field.length else None)


def _reads_several(alike: Sequence[Table], tables: Sequence[Table]) -> bool:
    return any(field.length for table in alike for field in readers(tables, table.name))


def _group_tables(
    tables: Sequence[Table],
    fields: Sequence[Table],
    scope: Scope,
    state: InnerState | None,
    rule: Callable[[Table], RowRule],
) -> list[list[Table]]:
    """Group tables that one matrix can contain: of one width, read and updated in the same way."""
    groups: dict[tuple[object, ...], list[Table]] = {}
    for table in tables:
        carries_on = state is not None and table.name in state.tables
        several = _reads_several([table], fields)
        alike = (table.width, table.per_domain, scope.covers(table), carries_on, several, rule(table))
        groups.setdefault(alike, []).append(table)
    return list(groups.values())


def _unchanged_tables(trajectories: Sequence[Trajectory], tables: Sequence[Table]) -> dict[str, Tensor]:
    """Whole tables that trajectories do not change and of which no theta_i has rows: their rows need no copy."""
    shared = trajectories[0].theta.shared
    specific = [trajectory.theta.specific for trajectory in trajectories]
    found = {}
    for table in owners(tables):
        whole = shared.tables.get(table.name)
        covered = any(own is not None and table.name in own.rows for own in specific)
        if isinstance(whole, Tensor) and not covered and not trajectories[0].scope.covers(table):
            found[table.name] = whole
    return found


def lay_out(stack: Stack, tables: Sequence[Table], device: torch.device, dtype: torch.dtype) -> Iterator[Layout]:
    """Prepare the steps of a stack, one segment at a time.

    Args:
        stack: the stack.
        tables: the tables of `open_stack`.
        device: device of the rows.
        dtype: type of weights.
    """
    row = group = 0
    for steps in stack.steps.segments(stack.segment_rows):
        batches = steps.flat()
        reader = RowReader(batches, device)
        lengths = np.array(reader.lengths)
        running = [len(own) for own in steps.batches]
        step = np.repeat(np.arange(len(steps)), running)
        begins, width = steps.begins(), np.repeat(steps.rows_S, running)
        place_N = torch.from_numpy(ranges(begins, lengths)).to(device)
        begin_N, width_N, step_N = (
            torch.from_numpy(np.repeat(by_batch, lengths)).to(device) for by_batch in (begins, width, step)
        )
        by_group = _group_places(batches, step, group, device)
        next_row, next_group = row + sum(reader.lengths), by_group.span.stop
        by_row = ReadPlaces(steps.sizes, begin_N, place_N, width_N, step_N, slice(row, next_row))
        if any(held.visit.columns.weights is not None for held in batches):
            batch_N = torch.from_numpy(np.repeat(np.arange(len(batches)), lengths)).to(device)
            weight_N = shares_of(reader.read(_weights).to(dtype), batch_N, len(batches))
        else:
            weight_N = torch.from_numpy(np.repeat(1 / np.maximum(lengths, 1), lengths)).to(device, dtype)
        padding = _Padding(steps, place_N)
        numeric_N = reader.read(lambda columns: columns.numeric)
        yield Layout(
            steps=steps,
            touched=[alike.touch(by_group if alike.per_domain else by_row) for alike in stack.tables],
            looked_up={
                table.name: [
                    ids.unflatten(0, (trajectories, -1))
                    for trajectories, ids in zip(
                        running, reader.first_ids(table.column).split(by_group.sizes), strict=True
                    )
                ]
                if table.per_domain
                else padding.pad(reader.ids(table.column))
                for table in tables
                if table.source in stack.lookups
            },
            several={
                table.weight: padding.pad(reader.weights(table.column).to(device, dtype))
                for table in tables
                if table.length and not (is_linear(table) and table.source not in stack.lookups)
            },
            numeric=padding.pad(numeric_N) if numeric_N.shape[1] else [],
            labels=padding.pad(reader.read(lambda columns: columns.labels)),
            base=padding.pad(reader.read(_base_logits)),
            weights=padding.pad(weight_N),
            groups=_padded_groups(reader, steps) if steps.mixes_domains else [],
        )
        row, group = next_row, next_group


def _group_places(batches: Sequence[Batch], step: NDArray[np.int64], first: int, device: torch.device) -> ReadPlaces:
    """Positions at which batches read tables per domain: one for each of their groups.

    Args:
        batches: the batches.
        step: step of each batch, int64.
        first: number of the groups of earlier segments.
        device: device of the positions.
    """
    counts = np.array([batch.group_count for batch in batches], dtype=np.int64)
    begins = np.repeat(counts.cumsum() - counts, counts)
    sizes = np.bincount(step, counts).astype(np.int64).tolist()
    begin_N, width_N, step_N = (
        torch.from_numpy(by_group).to(device)
        for by_group in (begins, np.repeat(counts, counts), np.repeat(step, counts))
    )
    place_N = torch.arange(len(begins), device=device)
    return ReadPlaces(sizes, begin_N, place_N, width_N, step_N, slice(first, first + len(begins)))


def _padded_groups(reader: RowReader, steps: Steps) -> list[Tensor]:
    """Number of rows of each group for each step of a single trajectory, including padding in the last group."""
    padding_S = np.array(steps.rows_S) - np.array(reader.lengths)
    return [
        torch.cat([sizes_G[:-1], sizes_G[-1:] + padding])
        for sizes_G, padding in zip(reader.groups, padding_S.tolist(), strict=True)
    ]


def _base_logits(columns: Columns) -> Tensor:
    zeros = columns.labels.new_zeros(1).expand_as(columns.labels)  # takes no memory
    return zeros if columns.base_logits is None else columns.base_logits


def _weights(columns: Columns) -> Tensor:
    ones = columns.labels.new_ones(1, dtype=torch.float32).expand_as(columns.labels)  # takes no memory
    return ones if columns.weights is None else columns.weights


@dataclass(frozen=True)
class _Padding:
    """Pads values of rows.

    Attributes:
        steps: the steps.
        place_N: position of each row among padded rows, int64 [N].
    """

    steps: Steps
    place_N: Tensor

    def pad(self, values_N: Tensor) -> list[Tensor]:
        """Values by step, [G_s, B_s, ...], with zeros as padding."""
        sizes = self.steps.sizes
        padded = values_N.new_zeros(sum(sizes), *values_N.shape[1:])
        padded[self.place_N] = values_N
        parts = padded.split(sizes)
        return [part.view(*shape, *padded.shape[1:]) for part, shape in zip(parts, self.steps.shapes, strict=True)]
