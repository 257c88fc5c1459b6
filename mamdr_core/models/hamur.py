"""HAMUR: adapters whose weights a shared hyper-network generates for each row (Li et al. 2023).

Shape suffixes: B rows, D width of all fields, H width of a hidden layer, A width of an adapter, R rank.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mamdr_core.config.models import ModelSettings, check_sizes
from mamdr_core.config.settings import settings
from mamdr_core.models.dropout import Dropout
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import TableLayer, domain_vector, normalize, perceptron, start_uniform
from mamdr_core.models.tables import Inputs


@settings
class HAMUROptions:
    """`model.options` of hamur."""

    adapters: int = 2
    """Number of last hidden layers that are followed by an adapter, at most all."""
    rank: int = 16
    """Rank of an adapter's generated matrices."""
    width: int = 32
    """Width of an adapter."""
    hyper: tuple[int, ...] = (64,)
    """Widths of the hidden layers of the hyper-network."""

    def __post_init__(self) -> None:
        check_sizes(**vars(self))


class HAMUR(nn.Module):
    """An MLP with an adapter after each of its last hidden layers.

    "HAMUR: Hyper Adapter for Multi-Domain Recommendation" (Li et al. 2023): a hyper-network, shared by all domains,
    maps all features of a row, the domain's embedding included, to a matrix I of rank x rank. An adapter's two matrices
    are U_1 I V_1 and U_2 I V_2 (`Adapter`). The MLP is shared too. A public implementation (Scenario-Wise-Rec) has an
    MLP for each domain, which is too large for many domains.

    Args:
        inputs: the fields.
        settings: `hidden` widths and `dropout`.
        options: settings of adapters and the hyper-network.
    """

    Options = HAMUROptions

    def __init__(self, inputs: Inputs, settings: ModelSettings, options: HAMUROptions) -> None:
        super().__init__()
        self.names, self.rank = inputs.names, options.rank
        self.hyper = perceptron(inputs.width, options.hyper, 0.0, options.rank**2)
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise((inputs.width, *settings.hidden)))
        self.dropouts = nn.ModuleList(Dropout(settings.dropout) for _ in settings.hidden)
        self.plain = max(0, len(settings.hidden) - options.adapters)
        self.adapters = nn.ModuleList(
            Adapter(f"adapter.{n}", inputs, width, options.width, options.rank)
            for n, width in enumerate(settings.hidden)
            if n >= self.plain
        )
        self.out = nn.Linear((inputs.width, *settings.hidden)[-1], 1)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        h_BD = x_BD = join_fields(fields, self.names)
        instance_BRR = self.hyper(x_BD).unflatten(1, (self.rank, self.rank))
        for n, (layer, dropout) in enumerate(zip(self.hidden, self.dropouts, strict=True)):
            h_BD = dropout(relu(layer(h_BD)))
            if n >= self.plain:
                h_BD = self.adapters[n - self.plain](fields, h_BD, instance_BRR)
        logits_B1: Tensor = self.out(h_BD)
        return logits_B1.squeeze(1)


class Adapter(TableLayer):
    """h + norm(sigmoid(h U_1 I V_1 + b_1) U_2 I V_2 + b_2), where I is the row's matrix.

    Products are evaluated from the left, so that the matrices U I V are never computed. The norm is the paper's domain
    norm, with mean and variance over a row's units instead of a batch (see `star.py`). Its scale is the product of a
    shared one and the domain's, its shift the sum; scales are stored as differences from 1, so that new domains start
    with the shared ones.

    Args:
        name: name of the adapter within the structure.
        inputs: the fields.
        width: width H of the adapted layer.
        inner: width A of the adapter.
        rank: rank R of I.
    """

    def __init__(self, name: str, inputs: Inputs, width: int, inner: int, rank: int) -> None:
        super().__init__()
        self.left_HR, self.right_RA = (start_uniform(torch.empty(a, b), a) for a, b in ((width, rank), (rank, inner)))
        self.left_AR, self.right_RH = (start_uniform(torch.empty(a, b), a) for a, b in ((inner, rank), (rank, width)))
        self.bias_A, self.bias_H = (nn.Parameter(torch.zeros(size)) for size in (inner, width))
        self.scale_H, self.shift_H = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.tables = (domain_vector(f"{name}.scale", inputs, width), domain_vector(f"{name}.shift", inputs, width))

    def forward(self, fields: Mapping[str, Tensor], h_BH: Tensor, instance_BRR: Tensor) -> Tensor:
        """Adapted units [B, H] of units [B, H]."""
        inner_BA = (_times(h_BH @ self.left_HR, instance_BRR) @ self.right_RA + self.bias_A).sigmoid()
        out_BH = _times(inner_BA @ self.left_AR, instance_BRR) @ self.right_RH + self.bias_H
        scale_BH, shift_BH = (fields[table.name] for table in self.tables)
        return h_BH + normalize(out_BH) * (1 + self.scale_H) * (1 + scale_BH) + self.shift_H + shift_BH


def _times(x_BR: Tensor, matrix_BRR: Tensor) -> Tensor:
    """Product of each row with the matrix of that row."""
    return (x_BR.unsqueeze(1) @ matrix_BRR).squeeze(1)
