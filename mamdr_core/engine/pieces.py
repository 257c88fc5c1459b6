"""Runs a model on rows of many domains: in stacks of pieces of similar length, each stack on its own thread.

Shape suffixes: G pieces of a stack, B rows of its longest piece, D width of a field.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import embedding
from torch.utils._pytree import tree_leaves, tree_map

from mamdr_core.engine.bags import pooled_rows
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.memory import stack_memory
from mamdr_core.engine.parameters import Theta, stacked_rows
from mamdr_core.engine.steps import ranges
from mamdr_core.engine.threads import one_thread
from mamdr_core.models.checking import vmap_error
from mamdr_core.models.pooling import is_linear, linear_weights
from mamdr_core.models.tables import Table
from mamdr_core.runtime.heartbeat import beat

PIECE_ROWS = 1 << 12
"""Maximum number of rows of a piece."""
STACK_ROWS = {"cpu": 1 << 12, "cuda": 1 << 16}
"""Maximum number of padded rows of a stack. On a CPU hidden layers then fit in the cache of a core: this is twice as
fast as 16,384."""
PADDING, MARGIN = 1.25, 8
"""A stack has at most `PADDING` times its rows, plus `MARGIN` per piece, as padded rows."""

T = TypeVar("T")


@dataclass(frozen=True)
class Pieces:
    """Ranges of consecutive rows; each is of one domain, or of domains with the same parameters.

    Attributes:
        start, length: first row and number of rows, int64 [G].
        owner: number that identifies the domain or run of the piece for the caller, int64 [G].
    """

    start: NDArray[np.int64]
    length: NDArray[np.int64]
    owner: NDArray[np.int64]

    def __getitem__(self, places: NDArray[np.int64] | slice) -> "Pieces":
        return Pieces(self.start[places], self.length[places], self.owner[places])

    def padded(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row numbers, int64 [G, B], and the mask of real rows, [G, B]; padding repeats the last row of a piece."""
        start_G1, length_G1 = (torch.from_numpy(each).to(device)[:, None] for each in (self.start, self.length))
        within_B = torch.arange(int(self.length.max()), device=device)
        return start_G1 + torch.minimum(within_B, length_G1 - 1), within_B < length_G1


def cut_ranges(start: NDArray[np.int64], stop: NDArray[np.int64], owner: NDArray[np.int64]) -> Pieces:
    """Cut ranges of rows into pieces of at most `PIECE_ROWS` rows; an empty range has no piece.

    Args:
        start, stop: bounds of each range, int64 [R].
        owner: owner of each range, int64 [R].
    """
    count = -(-(stop - start) // PIECE_ROWS)
    which = np.repeat(np.arange(len(start)), count)
    begin = start[which] + ranges(np.zeros_like(count), count) * PIECE_ROWS
    return Pieces(begin, np.minimum(begin + PIECE_ROWS, stop[which]) - begin, owner[which])


def cut_pieces(pieces: Pieces, most_rows: int, most_pieces: int) -> Iterator[Pieces]:
    """Group pieces of similar length into stacks.

    Args:
        pieces: pieces in any order.
        most_rows: maximum number of padded rows of a stack, unless one piece has more.
        most_pieces: maximum number of pieces of a stack.
    """
    ordered = pieces[np.argsort(pieces.length, kind="stable")]
    lengths = ordered.length.tolist()
    first = rows = 0
    for place, length in enumerate(lengths):
        size = place - first + 1
        padded = size * length
        if place > first and (
            padded > most_rows or size > most_pieces or padded > PADDING * (rows + length) + MARGIN * size
        ):
            yield ordered[slice(first, place)]
            first, rows = place, 0
        rows += length
    if lengths:
        yield ordered[slice(first, len(lengths))]


class StackPool:
    """Threads that run stacks, each with its own copy of the model, without dropout; see `stack_pool`.

    Args:
        engine: the engine of the model.
        threads: the threads.
        most_pieces: maximum number of pieces of a stack.
    """

    def __init__(self, engine: EagerEngine, threads: ThreadPoolExecutor, most_pieces: int) -> None:
        self._engine, self._threads, self._most_pieces = engine, threads, most_pieces
        self._local = threading.local()

    def run(self, task: Callable[[Pieces], T], pieces: Pieces) -> Iterator[T]:
        """Results of `task` for the stacks of some pieces, in an order that depends only on the pieces."""

        def run(stack: Pieces) -> T:
            beat()
            return task(stack)

        several = sum(table.length for table in self._engine.tables if not is_linear(table))  # embeddings per row
        most_rows = STACK_ROWS[self._engine.device.type] // (1 + several // 8)
        yield from self._threads.map(run, cut_pieces(pieces, most_rows, self._most_pieces))

    @property
    def module(self) -> nn.Module:
        """The copy of the model for this thread, as functional calls replace the parameters of a module."""
        if not hasattr(self._local, "module"):
            self._local.module = copy.deepcopy(self._engine.flat.module).eval()
        module: nn.Module = self._local.module
        return module


@contextmanager
def stack_pool(engine: EagerEngine, vectors: int) -> Iterator[StackPool]:
    """Open a pool of threads; no operation uses several of them, which does not pay for operations on few rows.

    Args:
        engine: the engine of the model.
        vectors: memory of a piece, as a multiple of the memory of the dense parameters.
    """
    threads = torch.get_num_threads() if engine.device.type == "cpu" else 1
    bytes_each = max(1, vectors * engine.flat.values_P.nbytes)
    most_pieces = max(1, int(stack_memory(engine.device) / threads / bytes_each))
    with one_thread(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        yield StackPool(engine, executor, most_pieces)


def stacked_fields(
    engine: EagerEngine,
    columns: Columns,
    thetas: Sequence[Theta],
    rows_GB: Tensor,
    tables: Sequence[Table] | None = None,
) -> dict[str, Tensor]:
    """The fields of some rows by name, [G, B, D], or [G, 1, D] for a table per domain.

    The field of a column of several ids is [G, B, L, D] with weights [G, B, L], or pooled where that is cheaper.

    Args:
        engine: the engine with the tables and fixed vectors.
        columns: the columns.
        thetas: parameters of each piece, or one for all.
        rows_GB: positions in `columns`.
        tables: the tables to read; None: all tables of the engine.
    """
    fields = {}
    for table in engine.tables if tables is None else tables:
        places = rows_GB[:, :1] if table.per_domain else rows_GB
        ids = columns.ids[table.column][places].long().to(engine.device)
        if table.length:
            fields[table.weight] = columns.weights_of(table.column, places).to(
                engine.device, engine.flat.values_P.dtype
            )
        if table.trainable and is_linear(table) and _is_whole(thetas, table.source):
            whole = thetas[0].shared.tables[table.source]
            assert isinstance(whole, Tensor)
            field = pooled_rows(whole, ids, linear_weights(table, fields[table.weight]))
        elif table.trainable:
            owner = replace(table, name=table.source)
            of_N = torch.arange(len(ids), device=ids.device).repeat_interleave(ids[0].numel())
            field = stacked_rows(thetas, owner, ids.flatten(), of_N).unflatten(0, tuple(ids.shape))
        else:
            field = embedding(ids, engine.frozen[table.name])  # several times as fast as indexing
        fields[table.name] = field
    if columns.numeric.shape[1]:
        fields["numeric"] = columns.numeric[rows_GB].to(engine.device)
    return fields


def _is_whole(thetas: Sequence[Theta], table: str) -> bool:
    """Whether a table is in one tensor and no theta_i has rows of it."""
    moved = any(theta.specific is not None and table in theta.specific.rows for theta in thetas)
    return not moved and isinstance(thetas[0].shared.tables[table], Tensor)


def vmap_for(module: nn.Module) -> Callable[..., Callable[..., Any]]:
    """`torch.func.vmap`, or `one_by_one` for a structure of a user that vmap cannot compute."""
    return one_by_one if vmap_error(module) else vmap


def one_by_one(function: Callable[..., Any], in_dims: int | tuple[int | None, ...] = 0) -> Callable[..., Any]:
    """A replacement for `torch.func.vmap` that makes one call after another.

    Args:
        function: takes tensors and dicts of tensors; returns a tensor, or a dict or tuple of them.
        in_dims: for each argument 0, to pass one element of its first dimension per call, or None; or 0 for all.
    """

    def call(*arguments: Any) -> Any:
        dims = (in_dims,) * len(arguments) if isinstance(in_dims, int) else in_dims
        pairs = list(zip(arguments, dims, strict=True))
        calls = next(len(tree_leaves(argument)[0]) for argument, dim in pairs if dim is not None)
        results = [
            function(*(each if dim is None else tree_map(itemgetter(place), each) for each, dim in pairs))
            for place in range(calls)
        ]
        return tree_map(lambda *each: torch.stack(each), *results)

    return call
