"""Layers whose weights differ by domain, applied to rows of many domains at once.

The rows of a batch of several domains are in groups, one per domain, in ascending order of size. Groups of equal size
are adjacent, so each run of them is one batched matrix product on views, without padding.

Shape suffixes: B rows, G groups, K groups of one run of n rows each, E parallel layers, I inputs and O outputs of a
layer.
"""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

GROUP = "domain.group"
"""Field of a batch of several domains: the group of each row, int64 [B], ascending."""
CACHED = 1 << 18
"""Number of weights that are computed from a shared factor at a time, so that they stay in a cache of the processor."""
SIZES = "domain.sizes"
"""Field of such a batch: the number of rows of each group, int64 [G] on the CPU, ascending."""


def mixes_domains(module: nn.Module) -> bool:
    """Whether a structure declares, by `mixes_domains = True`, that a call may contain rows of several domains.

    In such a call, tables per domain are [G, width], and `fields` contain `GROUP` and `SIZES`. The structure passes
    them to its layers, which read tables per domain with the functions of this module.
    """
    return bool(getattr(module, "mixes_domains", False))


def by_row(fields: Mapping[str, Tensor], name: str) -> Tensor:
    """Rows of a table per domain for every row of the batch, [B, width], or [1, width] for a batch of one domain."""
    return to_rows(fields, fields[name])


def to_rows(fields: Mapping[str, Tensor], own_GD: Tensor) -> Tensor:
    """Expand values by domain to the rows of the batch: [B, D], or [1, D] for a batch of one domain."""
    return own_GD.index_select(0, fields[GROUP]) if GROUP in fields else own_GD


def sum_by_domain(fields: Mapping[str, Tensor], x_BD: Tensor) -> Tensor:
    """Sums over the rows of each domain of a batch, [G, D], or [1, D] for a batch of one domain."""
    if GROUP not in fields:
        return x_BD.sum(0, keepdim=True)
    total_GD: Tensor = _sum(x_BD.contiguous(), fields[GROUP], fields[SIZES])
    return total_GD


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor, sizes_G: Tensor, factor: Tensor | None = None) -> Tensor:
    """Fully connected layers with separate weights for every group of rows.

    Args:
        x: [B, I], or [B, E, I] where each of E layers has separate inputs.
        weight: [G, O, I], or [G, E, O, I].
        bias: [G, O], or [G, E, O].
        sizes_G: rows of each group, see `SIZES`.
        factor: the weights of a group are factor * (1 + weight), [O, I], or [E, O, I]; None: weight.

    Returns:
        [B, O], or [B, E, O].
    """
    x = x.contiguous()
    if x.dim() == 2:
        whole = None if factor is None else factor.unsqueeze(0)
        out_BO: Tensor = _linear(x.unsqueeze(1), weight.unsqueeze(1), bias.unsqueeze(1), whole, sizes_G).squeeze(1)
        return out_BO
    out_BEO: Tensor = _linear(x, weight, bias, factor, sizes_G)
    return out_BEO


# A custom operator: torch.compile does not trace into it, which would compile every combination of sizes separately.
@torch.library.custom_op("mamdr::grouped_linear", mutates_args=())
def _linear(x_BEI: Tensor, weight_GEOI: Tensor, bias_GEO: Tensor, factor_EOI: Tensor | None, sizes_G: Tensor) -> Tensor:
    out_BEO = x_BEI.new_empty(*x_BEI.shape[:2], weight_GEOI.shape[2])
    for groups, rows, size in _runs(sizes_G, factor_EOI):
        own_KEOI = _with_factor(weight_GEOI[groups], factor_EOI)
        product_KEnO = _in_groups(x_BEI[rows], size) @ own_KEOI.transpose(2, 3)
        torch.add(product_KEnO, bias_GEO[groups].unsqueeze(2), out=_in_groups(out_BEO[rows], size))
    return out_BEO


@torch.library.custom_op("mamdr::grouped_linear_backward", mutates_args=())
def _linear_backward(
    gradient_BEO: Tensor, x_BEI: Tensor, weight_GEOI: Tensor, factor_EOI: Tensor | None, sizes_G: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of inputs, weights, biases and the factor, which is empty without one."""
    to_x_BEI, to_weight_GEOI = torch.empty_like(x_BEI), torch.empty_like(weight_GEOI)
    to_bias_GEO = weight_GEOI.new_empty(weight_GEOI.shape[:3])
    # A sum over many parts, too small for bfloat16 to add without rounding them away.
    wide = torch.promote_types(weight_GEOI.dtype, torch.float32)
    to_factor = weight_GEOI.new_zeros(0 if factor_EOI is None else factor_EOI.shape, dtype=wide)
    for groups, rows, size in _runs(sizes_G, factor_EOI):
        gradient_KEnO, x_KEnI = _in_groups(gradient_BEO[rows], size), _in_groups(x_BEI[rows], size)
        own_KEOI = _with_factor(weight_GEOI[groups], factor_EOI)
        _in_groups(to_x_BEI[rows], size).copy_(gradient_KEnO @ own_KEOI)
        torch.sum(gradient_KEnO, 2, out=to_bias_GEO[groups])
        gradient_KEOn = gradient_KEnO.transpose(2, 3)
        if size == 1:  # an outer product, bound by memory: one pass
            torch.mul(gradient_KEOn, x_KEnI, out=to_weight_GEOI[groups])
        else:
            to_weight_GEOI[groups] = gradient_KEOn @ x_KEnI
        if factor_EOI is not None:
            to_own_KEOI = to_weight_GEOI[groups]
            to_factor += torch.addcmul(to_own_KEOI, to_own_KEOI, weight_GEOI[groups]).sum(0, dtype=wide)
            to_own_KEOI.mul_(factor_EOI)
    return to_x_BEI, to_weight_GEOI, to_bias_GEO, to_factor.to(weight_GEOI.dtype)


# Not `index_add`: in compiled code, its order of summation depends on threads.
@torch.library.custom_op("mamdr::grouped_sum", mutates_args=())
def _sum(x_BD: Tensor, group_B: Tensor, sizes_G: Tensor) -> Tensor:
    out_GD = x_BD.new_empty(len(sizes_G), x_BD.shape[1])
    for groups, rows, size in _runs(sizes_G):
        torch.sum(x_BD[rows].view(-1, size, x_BD.shape[1]), 1, out=out_GD[groups])
    return out_GD


def _runs(sizes_G: Tensor, factor_EOI: Tensor | None = None) -> Iterator[tuple[slice, slice, int]]:
    """Runs of groups of one size: groups, rows and size. With a factor, the weights of a run fit into a CPU's cache."""
    group = row = 0
    most = len(sizes_G)
    if factor_EOI is not None and factor_EOI.device.type == "cpu":
        most = max(1, CACHED // factor_EOI.numel())
    for size, run in groupby(sizes_G.tolist()):
        end = group + sum(1 for _ in run)
        while group < end:
            count = min(most, end - group)
            yield slice(group, group + count), slice(row, row + count * size), size
            group, row = group + count, row + count * size


def _with_factor(weight_KEOI: Tensor, factor_EOI: Tensor | None) -> Tensor:
    return weight_KEOI if factor_EOI is None else torch.addcmul(factor_EOI, factor_EOI, weight_KEOI)


def _in_groups(rows_NEI: Tensor, size: int) -> Tensor:
    """Rows as a view of their groups of one size, [K, E, size, I]."""
    return rows_NEI.view(-1, size, *rows_NEI.shape[1:]).transpose(1, 2)


@_linear.register_fake
def _(x_BEI: Tensor, weight_GEOI: Tensor, bias_GEO: Tensor, factor_EOI: Tensor | None, sizes_G: Tensor) -> Tensor:
    return x_BEI.new_empty(*x_BEI.shape[:2], weight_GEOI.shape[2])


@_linear_backward.register_fake
def _(
    gradient_BEO: Tensor, x_BEI: Tensor, weight_GEOI: Tensor, factor_EOI: Tensor | None, sizes_G: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    to_factor = weight_GEOI.new_empty(0 if factor_EOI is None else factor_EOI.shape)
    to_bias_GEO = weight_GEOI.new_empty(weight_GEOI.shape[:3])
    return torch.empty_like(x_BEI), torch.empty_like(weight_GEOI), to_bias_GEO, to_factor


@_sum.register_fake
def _(x_BD: Tensor, group_B: Tensor, sizes_G: Tensor) -> Tensor:
    return x_BD.new_empty(sizes_G.shape[0], x_BD.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    x_BEI, weight_GEOI, _, factor_EOI, sizes_G = inputs
    ctx.save_for_backward(x_BEI, weight_GEOI, factor_EOI, sizes_G)


def _differentiate(ctx: Any, gradient_BEO: Tensor) -> tuple[Tensor | None, ...]:
    *others, to_factor = _linear_backward(gradient_BEO.contiguous(), *ctx.saved_tensors)
    return *others, to_factor if ctx.needs_input_grad[3] else None, None


_linear.register_autograd(_differentiate, setup_context=_keep)


def _keep_groups(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _differentiate_sum(ctx: Any, gradient_GD: Tensor) -> tuple[Tensor, None, None]:
    (group_B,) = ctx.saved_tensors
    return gradient_GD.index_select(0, group_B), None, None


_sum.register_autograd(_differentiate_sum, setup_context=_keep_groups)
