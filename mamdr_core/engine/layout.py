"""The rows of a stack's steps laid out on the device, ready to be computed on."""

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
from mamdr_core.engine.steps import ReadPlaces, RowReader, Steps, lay_steps, ranges
from mamdr_core.engine.working import StackedRows, StackedTables, Touched
from mamdr_core.models.pooling import is_linear
from mamdr_core.models.tables import Table, owners, readers

SEGMENT_ROWS = 1 << 16
"""Padded rows of the steps that are laid out at a time."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Trajectories that run together.

    Attributes:
        trajectories: G of them, those with more steps first.
        steps: all of them.
        tables: the embedding rows that they read, of tables that they may change, alike ones together.
        lookups: by name, all other tables, which steps read as they are.
        segment_rows: padded rows of the steps that are laid out at a time.
    """

    trajectories: Sequence[Trajectory]
    steps: Steps
    tables: list[StackedRows]
    lookups: dict[str, Tensor]
    segment_rows: int


@dataclass(frozen=True)
class Layout:
    """What some steps of a stack read; every list is by step.

    Attributes:
        steps: the steps.
        touched: of each of the stack's `tables`.
        looked_up: by other field, ids, int64 [G_s, B_s], or [G_s, 1] of a table per domain, [1, groups] where batches
            hold several domains, or [G_s, B_s, L] of a column of several ids.
        several: by the name of their weights' field, the weights of several ids, [G_s, B_s, L].
        numeric: float [G_s, B_s, K], or no list without numeric features.
        labels, base, weights: [G_s, B_s]; a trajectory's weights sum to 1, or are all 0; padding
            has 0.
        groups: rows of each group with padding in the last one, int64 [groups] on the CPU; no list where each batch
            holds one domain.
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
    """Gather the embedding rows that trajectories read.

    Args:
        trajectories: those with more steps first, from one theta_S, over one set of tables.
        tables: embedding tables and fixed vectors.
        frozen: the fixed vectors.
        batch_size: rows of a step at most.
        device: where to.
        rule: how the rows of a table move.
        state: moments of a single trajectory to carry on.
    """
    steps = lay_steps([trajectory.visits for trajectory in trajectories], batch_size)
    batches = steps.flat()
    reader = RowReader(batches, device)
    of_batch = np.array([batch.trajectory for batch in batches], dtype=np.int64)
    trajectory_N = torch.from_numpy(np.repeat(of_batch, reader.lengths)).to(device)
    trajectory_of_group = torch.from_numpy(np.repeat(of_batch, [len(sizes_G) for sizes_G in reader.groups])).to(device)
    scopes = [trajectory.scope for trajectory in trajectories]
    lookups = {**frozen, **_read_only(trajectories, tables)}
    stacked: list[StackedRows] = []
    for alike in _alike([t for t in owners(tables) if t.name not in lookups], tables, scopes[0], state, rule):
        thetas = [trajectory.theta for trajectory in trajectories]
        trains = scopes[0].covers(alike[0])
        carried = state if state and alike[0].name in state.tables else None
        if _reads_several(alike, tables):
            reads = [[_read(field, reader) for field in readers(tables, table.name)] for table in alike]
            stacked.append(StackedBags(alike, reads, thetas, scopes, trajectory_N, trains, rule(alike[0]), carried))
            continue
        per_domain = alike[0].per_domain
        ids = [reader.first_ids(table.column) if per_domain else reader.ids(table.column) for table in alike]
        of = trajectory_of_group if per_domain else trajectory_N
        stacked.append(StackedTables(alike, thetas, scopes, ids, of, trains, rule(alike[0]), carried))
    positions = sum(table.length for table in tables)
    return Stack(trajectories, steps, stacked, lookups, max(1, SEGMENT_ROWS // (1 + positions // 8)))


def _read(field: Table, reader: RowReader) -> Read:
    """What a field reads at the rows of some batches."""
    return Read(field, reader.ids(field.column), reader.bag_weights(field.column) if field.length else None)


def _reads_several(alike: Sequence[Table], tables: Sequence[Table]) -> bool:
    return any(field.length for table in alike for field in readers(tables, table.name))


def _alike(
    tables: Sequence[Table],
    fields: Sequence[Table],
    scope: Scope,
    state: InnerState | None,
    rule: Callable[[Table], RowRule],
) -> list[list[Table]]:
    """Tables that one matrix can hold: of one width, read and moved alike, all trained or none, all carrying moments or
    none.
    """
    groups: dict[tuple[object, ...], list[Table]] = {}
    for table in tables:
        carries_on = state is not None and table.name in state.tables
        several = _reads_several([table], fields)
        alike = (table.width, table.per_domain, scope.covers(table), carries_on, several, rule(table))
        groups.setdefault(alike, []).append(table)
    return list(groups.values())


def _read_only(trajectories: Sequence[Trajectory], tables: Sequence[Table]) -> dict[str, Tensor]:
    """Whole tables that neither the trajectories change nor their theta_i covers: no copy of their rows is needed."""
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
    """The stack's steps, some at a time.

    Args:
        stack: whose.
        tables: as `open_stack` was given.
        device: where to.
        dtype: of weights.
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
        by_group = _group_places(reader, step, group, device)
        next_row, next_group = row + sum(reader.lengths), by_group.span.stop
        by_row = ReadPlaces(steps.sizes, begin_N, place_N, width_N, step_N, slice(row, next_row))
        if any(held.visit.columns.weights is not None for held in batches):
            batch_N = torch.from_numpy(np.repeat(np.arange(len(batches)), lengths)).to(device)
            weight_N = shares_of(reader.read(_weights).to(dtype), batch_N, len(batches))
        else:
            weight_N = torch.from_numpy(np.repeat(1 / np.maximum(lengths, 1), lengths)).to(device, dtype)
        layout = _Padding(steps, place_N)
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
                else layout.pad(reader.ids(table.column))
                for table in tables
                if table.source in stack.lookups
            },
            several={
                table.weight: layout.pad(reader.weights(table.column).to(device, dtype))
                for table in tables
                if table.length and not (is_linear(table) and table.source not in stack.lookups)
            },
            numeric=layout.pad(numeric_N) if numeric_N.shape[1] else [],
            labels=layout.pad(reader.read(lambda columns: columns.labels)),
            base=layout.pad(reader.read(_base_logits)),
            weights=layout.pad(weight_N),
            groups=_padded_groups(reader, steps) if steps.mixes_domains else [],
        )
        row, group = next_row, next_group


def _group_places(reader: RowReader, step: NDArray[np.int64], first: int, device: torch.device) -> ReadPlaces:
    """Where some batches read tables per domain: once for each of their groups.

    Args:
        reader: of the batches.
        step: of each batch, int64.
        first: group of the stack that is their first.
        device: where to.
    """
    counts = np.array([len(sizes_G) for sizes_G in reader.groups], dtype=np.int64)
    begins = np.repeat(counts.cumsum() - counts, counts)
    sizes = np.bincount(step, counts).astype(np.int64).tolist()
    begin_N, width_N, step_N = (
        torch.from_numpy(by_group).to(device)
        for by_group in (begins, np.repeat(counts, counts), np.repeat(step, counts))
    )
    place_N = torch.arange(len(begins), device=device)
    return ReadPlaces(sizes, begin_N, place_N, width_N, step_N, slice(first, first + len(begins)))


def _padded_groups(reader: RowReader, steps: Steps) -> list[Tensor]:
    """By step of a single trajectory the rows of its batch's groups, padding in the last one."""
    padding_S = np.array(steps.rows_S) - np.array(reader.lengths)
    return [
        torch.cat([sizes_G[:-1], sizes_G[-1:] + padding])
        for sizes_G, padding in zip(reader.groups, padding_S.tolist(), strict=True)
    ]


def _base_logits(columns: Columns) -> Tensor:
    nothing = columns.labels.new_zeros(1).expand_as(columns.labels)  # takes no memory
    return nothing if columns.base_logits is None else columns.base_logits


def _weights(columns: Columns) -> Tensor:
    alike = columns.labels.new_ones(1, dtype=torch.float32).expand_as(columns.labels)  # takes no memory
    return alike if columns.weights is None else columns.weights


@dataclass(frozen=True)
class _Padding:
    """Puts values of real rows where they stand among padded ones."""

    steps: Steps
    place_N: Tensor

    def pad(self, values_N: Tensor) -> list[Tensor]:
        """By step [G_s, B_s, ...], zeros where there is no row."""
        sizes = self.steps.sizes
        padded = values_N.new_zeros(sum(sizes), *values_N.shape[1:])
        padded[self.place_N] = values_N
        parts = padded.split(sizes)
        return [part.view(*shape, *padded.shape[1:]) for part, shape in zip(parts, self.steps.shapes, strict=True)]
