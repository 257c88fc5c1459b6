"""Experts, shared or of each domain, and their mixture by a gate, for MMOE, CGC and PLE.

Shape suffixes: B rows, G groups of rows of one domain, E experts, I inputs and O outputs of a layer, H outputs of an
expert.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, relu

from mamdr_core.models.dropout import Dropout
from mamdr_core.models.groups import SIZES, grouped_linear
from mamdr_core.models.layers import TableLayer, default_std, domain_table, start_uniform
from mamdr_core.models.tables import Inputs


class Experts(nn.Module):
    """E networks of hidden layers over the same input.

    Args:
        layers: layers that compute all experts, see `shared_experts` and `domain_experts`.
        dropout: dropout rate after each layer.
    """

    def __init__(self, layers: Sequence[nn.Module], dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropouts = nn.ModuleList(Dropout(dropout) for _ in layers)

    def forward(self, fields: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs [B, E, H] of inputs [B, I]."""
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            x = dropout(relu(layer(fields, x)))
        return x


def shared_experts(number: int, width: int, hidden: Sequence[int], dropout: float) -> Experts:
    """Experts that all domains share, with hidden layers of the widths `hidden` over an input of `width`."""
    return Experts([_SharedLayer(number, *pair) for pair in pairwise((width, *hidden))], dropout)


def domain_experts(
    name: str, inputs: Inputs, number: int, width: int, hidden: Sequence[int], dropout: float
) -> Experts:
    """Experts of each domain, as `shared_experts`; `name` is their name within the structure."""
    pairs = enumerate(pairwise((width, *hidden)))
    return Experts([_DomainLayer(f"{name}.{n}", inputs, number, *pair) for n, pair in pairs], dropout)


class _SharedLayer(nn.Module):
    def __init__(self, number: int, width: int, out: int) -> None:
        super().__init__()
        self.weight_EOI = start_uniform(torch.empty(number, out, width), width)
        self.bias_EO = start_uniform(torch.empty(number, out), width)

    def forward(self, fields: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return _apply(x, self.weight_EOI, self.bias_EO)


class _DomainLayer(TableLayer):
    def __init__(self, name: str, inputs: Inputs, number: int, width: int, out: int) -> None:
        super().__init__()
        self.shape = (number, out, width)
        self.tables = (
            domain_table(f"{name}.weight", inputs, number * out * width, default_std(width)),
            domain_table(f"{name}.bias", inputs, number * out),
        )

    def forward(self, fields: Mapping[str, Tensor], x: Tensor) -> Tensor:
        weight, bias = (fields[table.name] for table in self.tables)
        if SIZES in fields:
            return self._apply_to_groups(x, weight, bias, fields[SIZES])
        return _apply(x, weight.view(self.shape), bias.view(self.shape[:2]))

    def _apply_to_groups(self, x: Tensor, weight: Tensor, bias: Tensor, sizes_G: Tensor) -> Tensor:
        """`_apply` with the weights of each group, [G, E * O * I]."""
        number, out, width = self.shape
        if x.dim() == 2:
            out_BEO = grouped_linear(x, weight.view(-1, number * out, width), bias, sizes_G)
            return out_BEO.view(-1, number, out)
        return grouped_linear(x, weight.view(-1, *self.shape), bias.view(-1, number, out), sizes_G)


def _apply(x: Tensor, weight_EOI: Tensor, bias_EO: Tensor) -> Tensor:
    """Outputs [B, E, O] of inputs [B, I], which all experts share, or [B, E, I]."""
    if x.dim() == 2:
        out_BEO: Tensor = linear(x, weight_EOI.flatten(0, 1), bias_EO.flatten()).unflatten(1, bias_EO.shape)
        return out_BEO
    product_EBO = x.transpose(0, 1) @ weight_EOI.transpose(1, 2)
    return product_EBO.transpose(0, 1) + bias_EO


def join_experts(left_BEH: Tensor, right_BEH: Tensor) -> Tensor:
    """Concatenate the outputs of two groups of experts, by padding: see `mamdr_core.models.fields.join_fields`."""
    left, right = left_BEH.shape[1], right_BEH.shape[1]
    return pad(left_BEH, (0, 0, 0, right)) + pad(right_BEH, (0, 0, left, 0))


def mix(logits_BE: Tensor, outputs_BEH: Tensor) -> Tensor:
    """Sum [B, H] of experts' outputs, weighted by the softmax of a gate's logits (Ma et al. 2018, Eq. 6 and 7)."""
    mixed_B1H = logits_BE.softmax(1).unsqueeze(1) @ outputs_BEH
    return mixed_B1H.squeeze(1)
