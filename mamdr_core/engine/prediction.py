"""Logits of many domains at once, each at theta_S + theta_i (Eq. 5), by stacks of pieces (`pieces.py`).

Shape suffixes: R runs of rows of one domain, G pieces of a stack, B rows of its longest piece, N rows.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Change, Shared, Theta, stacked_dense
from mamdr_core.engine.pieces import Pieces, StackPool, cut_ranges, stack_pool, stacked_fields, vmap_for
from mamdr_core.engine.specific_store import read_groups


def predict_runs(
    engine: EagerEngine,
    shared: Shared,
    specific: Mapping[int, Change],
    columns: Columns,
    domains: Sequence[int],
    edges: NDArray[np.int64],
) -> Tensor:
    """Logits of consecutive rows, base logits included, float [N]; domains without theta_i use theta_S.

    Equal, except for rounding, to `EagerEngine.predict` for each domain.

    Args:
        engine: the engine of the model, without dropout.
        shared: theta_S.
        specific: theta_i by domain index.
        columns: the columns.
        domains: domain index of each run of rows, [R].
        edges: first row of each run, and the end of the last one, ascending, int64 [R + 1].
    """
    first, last = int(edges[0]), int(edges[-1])
    logits_N = torch.empty(last - first, dtype=engine.flat.values_P.dtype, device=engine.device)
    has_own_R = np.array([domain in specific for domain in domains], dtype=np.bool_)
    runs_of: dict[int, list[int]] = {}
    for run in np.flatnonzero(has_own_R & (np.diff(edges) > 0)).tolist():
        runs_of.setdefault(domains[run], []).append(run)
    with stack_pool(engine, vectors=2) as pool:
        stacks = _Stacks(engine, columns, logits_N, first, pool)
        stacks.predict(shared, [], _without_specific(edges, has_own_R, engine.per_domain))
        for group in read_groups(specific, list(runs_of)):
            runs = np.array([run for domain in group for run in runs_of[domain]])
            owner = np.repeat(np.arange(len(group)), [len(runs_of[domain]) for domain in group])
            stacks.predict(shared, list(group.values()), cut_ranges(edges[runs], edges[runs + 1], owner))
    if columns.base_logits is not None:
        logits_N += columns.base_logits[first:last].to(logits_N)
    return logits_N


def _without_specific(edges: NDArray[np.int64], has_own_R: NDArray[np.bool_], per_domain: bool) -> Pieces:
    """Pieces of the runs without theta_i; adjacent runs are merged if the model has no tables per domain."""
    runs = np.flatnonzero(~has_own_R)
    start, stop = edges[runs], edges[runs + 1]
    if not per_domain and len(runs):
        begins = np.concatenate([[True], start[1:] != stop[:-1]])
        start, stop = start[begins], stop[np.concatenate([begins[1:], [True]])]
    return cut_ranges(start, stop, np.zeros(len(start), dtype=np.int64))


class _Stacks:
    """Predicts stacks of pieces.

    Args:
        engine: the engine of the model.
        columns: the columns.
        logits_N: receives the logits.
        first: row of `columns` that corresponds to the first element of `logits_N`.
        pool: pool of the engine.
    """

    def __init__(self, engine: EagerEngine, columns: Columns, logits_N: Tensor, first: int, pool: StackPool) -> None:
        self._engine, self._columns, self._logits_N, self._first = engine, columns, logits_N, first
        self._pool = pool
        self._vmap = vmap_for(engine.flat.module)

    def predict(self, shared: Shared, specific: Sequence[Change], pieces: Pieces) -> None:
        """Compute the logits of pieces.

        Args:
            shared: theta_S.
            specific: theta_i by owner of the pieces; empty: all pieces use theta_S.
            pieces: the pieces.
        """
        for _ in self._pool.run(partial(self._predict_stack, shared, specific), pieces):
            pass

    @torch.no_grad()
    def _predict_stack(self, shared: Shared, specific: Sequence[Change], stack: Pieces) -> None:
        rows_GB, real_GB = stack.padded(self._columns.labels.device)
        thetas = [Theta(shared, specific[owner]) for owner in stack.owner.tolist()] if specific else [Theta(shared)]
        fields = stacked_fields(self._engine, self._columns, thetas, rows_GB)
        if len(thetas) > 1:
            named = self._engine.flat.named(stacked_dense(thetas))
            logits_GB = self._vmap(self._call)(named, fields)
        elif len(rows_GB) > 1:
            named = self._engine.flat.named(shared.dense)
            logits_GB = self._vmap(self._call, in_dims=(None, 0))(named, fields)
        else:
            only = {name: field[0] for name, field in fields.items()}
            logits_GB = self._call(self._engine.flat.named(thetas[0].dense), only)[None]
        self._logits_N[(rows_GB[real_GB] - self._first).to(logits_GB.device)] = logits_GB[real_GB.to(logits_GB.device)]

    def _call(self, named: dict[str, Tensor], fields: dict[str, Tensor]) -> Tensor:
        """Logits of the model [B]."""
        logits_B: Tensor = functional_call(self._pool.module, named, (fields,))
        return logits_B
