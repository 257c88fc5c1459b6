"""Gradients of many domains at theta_S with respect to dense parameters, by stacks of pieces (`pieces.py`).

Shape suffixes: R runs of rows of one domain, G pieces of a stack, B rows of its longest piece, N rows, P dense
parameters.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad_and_value
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine.columns import Columns, Visit, shares_of
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Shared, Theta
from mamdr_core.engine.pieces import Pieces, StackPool, cut_ranges, stack_pool, stacked_fields, vmap_for


def dense_gradients(
    engine: EagerEngine, shared: Shared, columns: Columns, rows_N: Tensor, edges: NDArray[np.int64]
) -> Tensor:
    """Gradients of the mean loss of runs of rows at theta_S with respect to dense parameters, [R, P].

    Equal, except for rounding, to `EagerEngine.gradient(...).dense` for each run; that of an empty run is zero.

    Args:
        engine: the engine of the model, without dropout.
        shared: theta_S.
        columns: the columns.
        rows_N: positions in `columns`, int64 [N], run after run; the rows of a run are of one domain.
        edges: start of each run in `rows_N`, and the end of the last one, int64 [R + 1].

    Raises:
        DivergedError: a loss is not finite and `on_nan` of the engine is stop; with skip the gradient is zero.
    """
    runs = len(edges) - 1
    like = engine.flat.values_P
    gradients_RP, losses_R = like.new_zeros(runs, len(like)), like.new_zeros(runs)
    rows_N, lengths_R, shares_N = rows_N.to(columns.labels.device), np.diff(edges), None
    if columns.weights is not None:
        run_N = torch.from_numpy(np.repeat(np.arange(runs), lengths_R)).to(rows_N.device)
        shares_N = shares_of(columns.weights[rows_N].to(like.dtype), run_N, runs)
    # A piece needs memory for its gradient by parameter, concatenated, and for one intermediate result.
    with stack_pool(engine, vectors=3) as pool:
        task = partial(_differentiate, engine, pool, shared, columns, rows_N, lengths_R, shares_N)
        for stack, (gradient_GP, loss_G) in pool.run(task, cut_ranges(edges[:-1], edges[1:], np.arange(runs))):
            owner = torch.from_numpy(stack.owner).to(like.device)
            gradients_RP.index_add_(0, owner, gradient_GP)
            losses_R.index_add_(0, owner, loss_G)
    for run in (~losses_R.isfinite()).nonzero()[:, 0].tolist():
        engine.handle_divergence(Visit(columns, rows_N[edges[run] : edges[run + 1]]), 0, 0, 1)
        gradients_RP[run] = 0
    return gradients_RP


def _differentiate(
    engine: EagerEngine,
    pool: StackPool,
    shared: Shared,
    columns: Columns,
    rows_N: Tensor,
    lengths_R: NDArray[np.int64],
    shares_N: Tensor | None,
    stack: Pieces,
) -> tuple[Pieces, tuple[Tensor, Tensor]]:
    """Contributions of the pieces of a stack to the gradients [G, P] and mean losses [G] of their runs."""
    places_GB, real_GB = stack.padded(rows_N.device)
    rows_GB = rows_N[places_GB]
    fields = stacked_fields(engine, columns, [Theta(shared)], rows_GB)
    if shares_N is None:
        length_G1 = torch.from_numpy(lengths_R[stack.owner]).to(engine.device)[:, None]
        weights_GB = real_GB.to(engine.device, shared.dense.dtype) / length_G1
    else:
        weights_GB = (real_GB * shares_N[places_GB]).to(engine.device)
    labels_GB = columns.labels[rows_GB].to(engine.device)
    base_GB = torch.zeros_like(labels_GB) if columns.base_logits is None else columns.base_logits[rows_GB].to(labels_GB)

    def loss(
        named: dict[str, Tensor], fields: dict[str, Tensor], labels_B: Tensor, base_B: Tensor, weights_B: Tensor
    ) -> Tensor:
        logits_B: Tensor = functional_call(pool.module, named, (fields,)) + base_B
        return (binary_cross_entropy_with_logits(logits_B, labels_B, reduction="none") * weights_B).sum()

    named = engine.flat.named(shared.dense)
    differentiate = vmap_for(engine.flat.module)(grad_and_value(loss), in_dims=(None, 0, 0, 0, 0))
    by_name, loss_G = differentiate(named, fields, labels_GB, base_GB, weights_GB)
    return stack, (torch.cat([by_name[name].flatten(1) for name in named], dim=1), loss_G)
