"""DCNv2: feature crosses by matrices of full or low rank (Wang et al. 2021).

Shape suffixes: B rows, D width of all fields, R rank.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mamdr_core.config.models import ModelSettings, check_sizes
from mamdr_core.config.settings import settings
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import perceptron, start_uniform
from mamdr_core.models.tables import Inputs


@settings
class DCNv2Options:
    """`model.options` of dcnv2."""

    cross_layers: int = 2
    """Number of cross layers."""
    low_rank: int = 0
    """Rank of a cross layer's matrix; 0: a full matrix."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Input of the hidden layers: the features (parallel), or the output of the cross layers (stacked)."""

    def __post_init__(self) -> None:
        check_sizes(cross_layers=self.cross_layers)
        if self.low_rank:
            check_sizes(low_rank=self.low_rank)


class DCNv2(nn.Module):
    """A cross network and a deep network ("DCN V2: Improved Deep & Cross Network", Wang et al. 2021).

    The logit is linear in the outputs of both networks (parallel), or in those of the deep network over the cross
    network (stacked). The paper's mixture of low-rank experts (DCN-Mix) is not included.

    Args:
        inputs: the fields.
        settings: `hidden` widths of the deep network and `dropout`.
        options: settings of the cross network.
    """

    Options = DCNv2Options

    def __init__(self, inputs: Inputs, settings: ModelSettings, options: DCNv2Options) -> None:
        super().__init__()
        self.names, width = inputs.names, inputs.width
        self.crosses = nn.ModuleList(CrossLayer(width, options.low_rank) for _ in range(options.cross_layers))
        self.cross_out = nn.Linear(width, 1, bias=False) if options.structure == "parallel" else None
        self.deep = perceptron(width, settings.hidden, settings.dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        start_BD = crossed_BD = join_fields(fields, self.names)
        for layer in self.crosses:
            crossed_BD = layer(start_BD, crossed_BD)
        if self.cross_out is None:
            logits_B1: Tensor = self.deep(crossed_BD)
        else:
            logits_B1 = self.cross_out(crossed_BD) + self.deep(start_BD)
        return logits_B1.squeeze(1)


class CrossLayer(nn.Module):
    """x_0 * (W x_l + b) + x_l, elementwise, with W = U V^T for low rank (Wang et al. 2021).

    Args:
        width: width D of x_0 and x_l.
        rank: rank R of W; 0: full.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.inner_RD = start_uniform(torch.empty(rank, width), width) if rank else None
        self.outer = nn.Linear(rank or width, width)

    def forward(self, start_BD: Tensor, x_BD: Tensor) -> Tensor:
        """x_(l+1) [B, D] of x_l [B, D]; `start_BD` is x_0."""
        inner = x_BD if self.inner_RD is None else linear(x_BD, self.inner_RD)
        crossed_BD: Tensor = start_BD * self.outer(inner) + x_BD
        return crossed_BD
