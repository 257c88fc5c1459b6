"""STAR: a network whose weights are a shared part times a domain's own (Sheng et al. 2021)."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, relu

from mamdr_core.config.models import ModelSettings
from mamdr_core.models.dropout import Dropout
from mamdr_core.models.fields import join_fields
from mamdr_core.models.groups import SIZES, by_row, grouped_linear
from mamdr_core.models.layers import TableLayer, domain_table, perceptron
from mamdr_core.models.statistics import DomainNormalization
from mamdr_core.models.tables import Inputs


class STAR(nn.Module):
    """Partitioned normalisation, a star-topology network, and an auxiliary network whose logit is added.

    The auxiliary network reads the domain's embedding and all other features (Sheng et al. 2021, section 3.4).

    Args:
        inputs: the fields.
        settings: `hidden` widths of the shared and the specific network, `star.auxiliary`, `star.normalization`,
            `dropout`.
    """

    compiles_in_stacks = False
    """torch 2.9 cannot compile the gradients of several of these networks together with dynamic sizes."""
    mixes_domains = True

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        self.names = inputs.names
        self.normalization = PartitionedNormalization(
            "normalization", inputs, inputs.width, settings.star.normalization == "partitioned"
        )
        widths = pairwise((inputs.width, *settings.hidden, 1))
        self.layers = nn.ModuleList(StarLinear(f"star.{n}", inputs, *pair) for n, pair in enumerate(widths))
        self.dropouts = nn.ModuleList(Dropout(settings.dropout) for _ in settings.hidden)
        self.auxiliary = perceptron(inputs.width, settings.star.auxiliary, settings.dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        x_BD = join_fields(fields, self.names)
        h_BD = self.normalization(fields, x_BD)
        *hidden, last = self.layers
        for layer, dropout in zip(hidden, self.dropouts, strict=True):
            h_BD = dropout(relu(layer(fields, h_BD)))
        logits_B1: Tensor = last(fields, h_BD) + self.auxiliary(x_BD)
        return logits_B1.squeeze(1)

    def observe(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Input of the normalisation, for measuring its statistics; see `mamdr_core.models.statistics`."""
        return {"normalization": join_fields(fields, self.names)}


class StarLinear(TableLayer):
    """A layer of weights W * W_d, elementwise, and a bias b + b_d (Sheng et al. 2021, Eq. 8).

    W_d is stored as 1 + w_d with initial w_d = 0, so that every domain starts as the shared network, and a domain
    without training rows remains so.

    Args:
        name: name of the layer within the structure.
        inputs: the fields.
        width: number of inputs.
        out: number of outputs.
    """

    def __init__(self, name: str, inputs: Inputs, width: int, out: int) -> None:
        super().__init__()
        self.shared = nn.Linear(width, out)
        self.tables = (
            domain_table(f"{name}.weight", inputs, out * width),
            domain_table(f"{name}.bias", inputs, out),
        )

    def forward(self, fields: Mapping[str, Tensor], x_BD: Tensor) -> Tensor:
        """Outputs [B, out] of inputs [B, width], with the weights of the domain or the groups in `fields`."""
        weight, bias = (fields[table.name] for table in self.tables)
        if SIZES in fields:
            weight_GOI = weight.view(-1, *self.shared.weight.shape)
            return grouped_linear(x_BD, weight_GOI, self.shared.bias + bias, fields[SIZES], self.shared.weight)
        own = self.shared.weight * (1 + weight.view(self.shared.weight.shape))
        return linear(x_BD, own, self.shared.bias + bias.view(-1))


class PartitionedNormalization(TableLayer):
    """Normalised features, times gamma * gamma_d, plus beta + beta_d (Sheng et al. 2021, Eq. 4 and 5).

    Mean and variance are those of the row's domain (`mamdr_core.models.statistics`), or those of the row over its
    features, as in layer normalisation. gamma and gamma_d are stored as 1 + g and 1 + g_d.

    Args:
        name: name of the layer within the structure.
        inputs: the fields.
        width: number of features D.
        by_domain: whether to normalise by the statistics of the domain.
    """

    def __init__(self, name: str, inputs: Inputs, width: int, by_domain: bool = False) -> None:
        super().__init__()
        self.normalize = DomainNormalization(name, inputs, width) if by_domain else None
        self.scale = nn.Parameter(torch.zeros(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.tables = (
            domain_table(f"{name}.scale", inputs, width),
            domain_table(f"{name}.shift", inputs, width),
        )

    def forward(self, fields: Mapping[str, Tensor], x_BD: Tensor) -> Tensor:
        """Normalised features [B, D], with the scale and shift of the domain or the groups in `fields`."""
        scale, shift = (by_row(fields, table.name) for table in self.tables)
        normalized_BD = self.normalize(fields, x_BD) if self.normalize else layer_norm(x_BD, x_BD.shape[1:])
        return normalized_BD * (1 + self.scale) * (1 + scale) + self.shift + shift
