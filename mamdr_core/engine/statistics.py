"""Weighted moments of layer inputs by domain; they do not depend on how rows are divided into pieces and over ranks.

Shape suffixes: N rows, R runs of rows or of parts, D width of the input, G pieces of a stack, B rows of its longest
piece.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Change, Shared, Theta, stacked_dense
from mamdr_core.engine.pieces import Pieces, StackPool, cut_ranges, stack_pool, stacked_fields, vmap_for
from mamdr_core.engine.specific_store import read_groups
from mamdr_core.models.statistics import observe


@dataclass(frozen=True)
class Moments:
    """Weight, mean and sum of squared deviations of R runs of rows, in float64.

    Attributes:
        weight: the sum of the rows' weights, [R, 1].
        mean: weighted, [R, D]; 0 without weight.
        squares: the weighted sum of squared deviations from the mean, [R, D].
    """

    weight: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, flat: Tensor) -> "Moments":
        """The inverse of `flat`."""
        width = (flat.shape[1] - 1) // 2
        return cls(*flat.split((1, width, width), 1))

    @property
    def flat(self) -> Tensor:
        """Weight, mean and squares concatenated, [R, 1 + 2 D]."""
        return torch.cat([self.weight, self.mean, self.squares], 1)

    @property
    def variance(self) -> Tensor:
        """Variance, [R, D]; 0 without weight."""
        return self.squares / self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny)


def combine(parts: Moments, counts_R: Tensor) -> Moments:
    """Combine the moments of consecutive parts (Chan, Golub and LeVeque 1979, Eq. 2.1, for any number of parts).

    Args:
        parts: moments of the parts of all runs, run after run; a part may be a single row without squared deviations.
        counts_R: number of parts of each run, int64 [R].
    """

    def total(values: Tensor) -> Tensor:
        return torch.segment_reduce(values, "sum", lengths=counts_R, axis=0, initial=0.0)

    weight_R1 = total(parts.weight)
    mean_RD = total(parts.weight * parts.mean) / weight_R1.clamp_min(torch.finfo(weight_R1.dtype).tiny)
    deviation = parts.mean - mean_RD.repeat_interleave(counts_R, 0)
    return Moments(weight_R1, mean_RD, total(parts.squares + parts.weight * deviation.square()))


@torch.no_grad()
def domain_moments(
    engine: EagerEngine, shared: Shared, specific: Mapping[int, Change], columns: Columns, domains: range
) -> dict[str, Moments]:
    """The moments of the inputs of each layer of `engine.statistics` over the rows of domains, [domains, D].

    Inputs of rows of domain i are computed at theta_S + theta_i, or at theta_S without theta_i. The moments of a domain
    do not depend on other domains.

    Args:
        engine: the engine of the model.
        shared: theta_S.
        specific: theta_i by domain index.
        columns: the columns.
        domains: the domains.
    """
    starts, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    found = {layer.name: [torch.zeros(0, 1 + 2 * layer.width, dtype=torch.float64)] for layer in engine.statistics}
    edges = columns.offsets.numpy()
    with stack_pool(engine, vectors=2) as pool:
        for group in _groups(specific, domains):
            own = np.array(list(group), dtype=np.int64)
            pieces = cut_ranges(edges[own], edges[own + 1], own)
            for stack, measured in pool.run(partial(_measure, engine, pool, shared, group, columns), pieces):
                starts.append(stack.start)
                owners.append(stack.owner)
                for name, moments in measured.items():
                    found[name].append(moments.flat.cpu())
    order = torch.from_numpy(np.argsort(np.concatenate(starts), kind="stable"))
    owner = torch.from_numpy(np.concatenate(owners)) - domains.start
    counts = torch.bincount(owner, minlength=len(domains))
    return {name: combine(Moments.of(torch.cat(parts)[order]), counts) for name, parts in found.items()}


def _groups(specific: Mapping[int, Change], domains: range) -> Iterator[Mapping[int, Change | None]]:
    """The domains without theta_i, then those with theta_i in groups that fit in memory."""
    yield {domain: None for domain in domains if domain not in specific}
    yield from read_groups(specific, [domain for domain in domains if domain in specific])


def _measure(
    engine: EagerEngine,
    pool: StackPool,
    shared: Shared,
    group: Mapping[int, Change | None],
    columns: Columns,
    stack: Pieces,
) -> tuple[Pieces, dict[str, Moments]]:
    """The moments of each piece of a stack."""
    rows_GB, real_GB = stack.padded(columns.labels.device)
    own = [group[domain] for domain in stack.owner.tolist()]
    is_shared = all(specific is None for specific in own)
    thetas = [Theta(shared)] if is_shared else [Theta(shared, specific) for specific in own]
    features = [table for table in engine.tables if table.feature]
    fields = stacked_fields(engine, columns, thetas, rows_GB, features)
    module = _Observer(pool.module)

    def call(named: dict[str, Tensor], fields: dict[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = functional_call(module, named, (fields,))
        return found

    dense = shared.dense if is_shared else stacked_dense(thetas)
    named = {f"structure.{name}": values for name, values in engine.flat.named(dense).items()}
    observed = vmap_for(engine.flat.module)(call, in_dims=(None if is_shared else 0, 0))(named, fields)
    weights = columns.weights
    rows_N = rows_GB[real_GB]
    weight_N1 = (torch.ones_like(rows_N) if weights is None else weights[rows_N]).double()[:, None].to(engine.device)
    lengths_G = torch.from_numpy(stack.length).to(engine.device)
    measured = {}
    for name, x_GBD in observed.items():
        x_ND = x_GBD[real_GB.to(engine.device)].double()
        measured[name] = combine(Moments(weight_N1, x_ND, torch.zeros_like(x_ND)), lengths_G)
    return stack, measured


class _Observer(nn.Module):
    """Wraps `observe` of a structure as a module, for `functional_call`."""

    def __init__(self, structure: nn.Module) -> None:
        super().__init__()
        self.structure = structure

    def forward(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The input of each layer that normalises."""
        return observe(self.structure, fields)
