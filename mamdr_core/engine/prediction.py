"""Logits of many domains at once, each at its own theta_S + theta_i (Eq. 5): stacks of pieces, one thread each.

Shape suffixes: R runs of rows of one domain, G pieces of a stack, B rows of its longest piece, N rows, P dense
parameters, D width of a field.
"""

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.functional import embedding

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.memory import stack_memory
from mamdr_core.engine.parameters import Change, Shared, Theta, stacked_dense, stacked_rows
from mamdr_core.engine.specific_store import read_groups
from mamdr_core.engine.threads import one_thread
from mamdr_core.heartbeat import beat

PIECE_ROWS = 1 << 12
"""Rows of a piece at most."""
STACK_ROWS = {"cpu": 1 << 12, "cuda": 1 << 16}
"""Padded rows of a stack at most: on a CPU hidden layers then stay in a core's cache, twice as fast as 16,384."""
PADDING, MARGIN = 1.25, 8
"""Padded rows of a stack are at most `PADDING` times its rows, and `MARGIN` more for each piece."""


@dataclass(frozen=True)
class Pieces:
    """Consecutive rows of one domain each, or of any domains where all have the same parameters.

    Attributes:
        start, length: rows, int64 [G].
        owner: place of the piece's theta_i among those that were read; nobody looks where there are none.
    """

    start: NDArray[np.int64]
    length: NDArray[np.int64]
    owner: NDArray[np.int64]

    def __getitem__(self, places: NDArray[np.int64] | slice) -> "Pieces":
        """Some of the pieces."""
        return Pieces(self.start[places], self.length[places], self.owner[places])


def predict_runs(
    engine: EagerEngine,
    shared: Shared,
    specific: Mapping[int, Change],
    columns: Columns,
    domains: Sequence[int],
    edges: NDArray[np.int64],
) -> Tensor:
    """Logits of consecutive rows, base logits included, float [N]: at theta_S + theta_i, or theta_S without theta_i.

    Equal, except for rounding, to `EagerEngine.predict` of one domain after another.

    Args:
        engine: has the model; dropout is off.
        shared: theta_S.
        specific: theta_i by domain index.
        columns: have the rows.
        domains: of each run, its domain's index, [R].
        edges: where the runs begin, and the end of the last one, ascending, int64 [R + 1].
    """
    first, last = int(edges[0]), int(edges[-1])
    logits_N = torch.empty(last - first, dtype=engine.flat.values_P.dtype, device=engine.device)
    has_own_R = np.array([domain in specific for domain in domains], dtype=np.bool_)
    runs_of: dict[int, list[int]] = {}
    for run in np.flatnonzero(has_own_R & (np.diff(edges) > 0)).tolist():
        runs_of.setdefault(domains[run], []).append(run)
    threads = torch.get_num_threads() if engine.device.type == "cpu" else 1
    with one_thread(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        stacks = _Stacks(engine, columns, logits_N, first, pool, threads)
        stacks.predict(shared, [], _without_specific(edges, has_own_R, engine.per_domain))
        for group in read_groups(specific, list(runs_of)):
            runs = np.array([run for domain in group for run in runs_of[domain]])
            owner = np.repeat(np.arange(len(group)), [len(runs_of[domain]) for domain in group])
            stacks.predict(shared, list(group.values()), _cut(edges[runs], edges[runs + 1], owner))
    if columns.base_logits is not None:
        logits_N += columns.base_logits[first:last].to(logits_N)
    return logits_N


def _without_specific(edges: NDArray[np.int64], has_own_R: NDArray[np.bool_], per_domain: bool) -> Pieces:
    """Pieces of the runs without theta_i; runs are joined where the model has no tables per domain."""
    runs = np.flatnonzero(~has_own_R)
    start, stop = edges[runs], edges[runs + 1]
    if not per_domain and len(runs):
        begins = np.concatenate([[True], start[1:] != stop[:-1]])
        start, stop = start[begins], stop[np.concatenate([begins[1:], [True]])]
    return _cut(start, stop, np.zeros(len(start), dtype=np.int64))


def _cut(start: NDArray[np.int64], stop: NDArray[np.int64], owner: NDArray[np.int64]) -> Pieces:
    """Ranges of rows as pieces of at most `PIECE_ROWS` rows."""
    most = PIECE_ROWS
    count = -(-(stop - start) // most)
    which = np.repeat(np.arange(len(start)), count)
    number = np.arange(len(which)) - (count.cumsum() - count)[which]
    begin = start[which] + number * most
    return Pieces(begin, np.minimum(begin + most, stop[which]) - begin, owner[which])


def cut_pieces(pieces: Pieces, most_rows: int, most_pieces: int) -> Iterator[Pieces]:
    """Stacks of pieces of similar length.

    Args:
        pieces: in any order.
        most_rows: padded rows of a stack, unless one piece has more.
        most_pieces: of a stack.
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


class _Stacks:
    """Predicts stacks in the threads of a pool, each with its own copy of the model; no operation uses several threads.

    Operations on few rows gain nothing from threads, and on a busy machine these wait for one another in each.

    Args:
        engine: has the model.
        columns: have the rows.
        logits_N: is filled.
        first: row of `columns` that is the first of `logits_N`.
        pool: has `threads` threads.
    """

    def __init__(
        self,
        engine: EagerEngine,
        columns: Columns,
        logits_N: Tensor,
        first: int,
        pool: ThreadPoolExecutor,
        threads: int,
    ) -> None:
        self._engine, self._columns, self._logits_N, self._first = engine, columns, logits_N, first
        self._pool = pool
        self._most_rows = STACK_ROWS[engine.device.type]
        bytes_each = 2 * engine.flat.values_P.nbytes
        self._most_pieces = max(1, int(stack_memory(engine.device) / threads / max(1, bytes_each)))
        self._local = threading.local()

    def predict(self, shared: Shared, specific: Sequence[Change], pieces: Pieces) -> None:
        """Fill in the logits of some pieces.

        Args:
            shared: theta_S.
            specific: theta_i of the pieces' owners; none: all pieces are predicted at theta_S.
            pieces: are predicted when this returns.
        """
        stacks = cut_pieces(pieces, self._most_rows, self._most_pieces)
        for done in [self._pool.submit(self._predict_stack, shared, specific, stack) for stack in stacks]:
            done.result()

    @torch.no_grad()
    def _predict_stack(self, shared: Shared, specific: Sequence[Change], stack: Pieces) -> None:
        beat()
        device = self._columns.labels.device
        start_G1, length_G1 = (torch.from_numpy(each).to(device)[:, None] for each in (stack.start, stack.length))
        within_B = torch.arange(int(stack.length.max()), device=device)
        rows_GB = start_G1 + torch.minimum(within_B, length_G1 - 1)  # padding reads the last row again
        thetas = [Theta(shared, specific[owner]) for owner in stack.owner.tolist()] if specific else [Theta(shared)]
        fields = self._fields(thetas, rows_GB)
        if len(thetas) > 1:
            named = self._engine.flat.named(stacked_dense(thetas))
            logits_GB = vmap(self._call)(named, fields)
        elif len(rows_GB) > 1:
            logits_GB = vmap(self._call, in_dims=(None, 0))(self._engine.flat.named(shared.dense), fields)
        else:
            only = {name: field[0] for name, field in fields.items()}
            logits_GB = self._call(self._engine.flat.named(thetas[0].dense), only)[None]
        real_GB = within_B < length_G1
        self._logits_N[(rows_GB[real_GB] - self._first).to(logits_GB.device)] = logits_GB[real_GB.to(logits_GB.device)]

    def _fields(self, thetas: Sequence[Theta], rows_GB: Tensor) -> dict[str, Tensor]:
        """What the model reads of some rows, by name [G, B, D], or [G, 1, D] of a table per domain."""
        engine, columns = self._engine, self._columns
        fields = {}
        for table in engine.tables:
            places = rows_GB[:, :1] if table.per_domain else rows_GB
            ids = columns.ids[table.column][places].long().to(engine.device)
            if table.trainable:
                of_N = torch.arange(len(ids), device=ids.device).repeat_interleave(ids.shape[1])
                field = stacked_rows(thetas, table, ids.flatten(), of_N).unflatten(0, tuple(ids.shape))
            else:
                field = embedding(ids, engine.frozen[table.name])  # several times as fast as indexing
            fields[table.name] = field
        if columns.numeric.shape[1]:
            fields["numeric"] = columns.numeric[rows_GB].to(engine.device)
        return fields

    def _call(self, named: dict[str, Tensor], fields: dict[str, Tensor]) -> Tensor:
        """The model's logits [B] by this thread's copy of it: a call replaces the parameters of a module."""
        if not hasattr(self._local, "module"):
            self._local.module = copy.deepcopy(self._engine.flat.module).eval()
        logits_B: Tensor = functional_call(self._local.module, named, (fields,))
        return logits_B
