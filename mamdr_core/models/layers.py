"""Layers of several structures: fully connected layers, and layers whose weights are rows of tables.

Shape suffixes: B rows, D width of the input.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from mamdr_core.models.dropout import Dropout
from mamdr_core.models.groups import SIZES, grouped_linear
from mamdr_core.models.tables import Inputs, Table

EPSILON = 1e-5
"""Added to a variance, as torch.nn.LayerNorm does."""


class TableLayer(nn.Module):
    """A layer whose weights are fields of the batch.

    Attributes:
        tables: the tables of the weights; `declare_inputs` adds them to the inputs of the layer's structure.
    """

    tables: tuple[Table, ...]


def tables_of(module: nn.Module) -> tuple[Table, ...]:
    """The tables of all layers of a structure."""
    layers = [layer for layer in module.modules() if isinstance(layer, TableLayer)]
    return tuple(table for layer in layers for table in layer.tables)


def hidden_layers(width: int, hidden: Sequence[int], dropout: float) -> list[nn.Module]:
    """Fully connected layers from `width` to the widths `hidden`, each with ReLU and dropout."""
    layers: list[nn.Module] = []
    for before, after in pairwise((width, *hidden)):
        layers += [nn.Linear(before, after), nn.ReLU(), Dropout(dropout)]
    return layers


def perceptron(width: int, hidden: Sequence[int], dropout: float, out: int = 1) -> nn.Sequential:
    """Hidden layers and a linear output layer, [B, width] to [B, out]."""
    return nn.Sequential(*hidden_layers(width, hidden, dropout), nn.Linear((width, *hidden)[-1], out))


def default_std(width: int) -> float:
    """Standard deviation of the initial weights of `nn.Linear` of `width` inputs: U(-1/sqrt(width), 1/sqrt(width))."""
    return float((3 * width) ** -0.5)


def domain_table(name: str, inputs: Inputs, width: int, std: float = 0.0) -> Table:
    """Weights of every domain, which a layer reads once for each domain of a batch.

    The field is [1, width], the weights of one domain, unless the structure mixes domains, see `groups.mixes_domains`.
    """
    return Table(name, "domain", inputs.domain_rows, width, feature=False, per_domain=True, std=std)


def domain_vector(name: str, inputs: Inputs, width: int) -> Table:
    """A vector of every domain, initially zero, and narrow enough to be read for every row, [B, width].

    Unlike with tables of `domain_table`, a call may contain rows of many domains.
    """
    return Table(name, "domain", inputs.domain_rows, width, feature=False, std=0.0)


class DomainLinear(TableLayer):
    """A fully connected layer with weights of each domain.

    Args:
        name: name of the layer within its structure.
        inputs: the fields.
        width: number of inputs.
        out: number of outputs.
    """

    def __init__(self, name: str, inputs: Inputs, width: int, out: int) -> None:
        super().__init__()
        self.name, self.shape = name, (out, width)
        self.tables = (
            domain_table(f"{name}.weight", inputs, out * width, default_std(width)),
            domain_table(f"{name}.bias", inputs, out),
        )

    def forward(self, fields: Mapping[str, Tensor], x_BD: Tensor) -> Tensor:
        """Outputs [B, out] of inputs [B, width], with the weights of the domain or the groups in `fields`."""
        weight, bias = (fields[table.name] for table in self.tables)
        if SIZES in fields:
            return grouped_linear(x_BD, weight.view(-1, *self.shape), bias, fields[SIZES])
        return linear(x_BD, weight.view(self.shape), bias.view(-1))


class DomainPerceptron(nn.Module):
    """Hidden layers and an output layer with weights of each domain: a tower, or a gate.

    Args:
        name: name within its structure.
        inputs: the fields.
        width: number of inputs.
        hidden: widths of the hidden layers.
        out: number of outputs.
        dropout: dropout rate after each hidden layer.
    """

    def __init__(self, name: str, inputs: Inputs, width: int, hidden: Sequence[int], out: int, dropout: float) -> None:
        super().__init__()
        widths = pairwise((width, *hidden, out))
        self.layers = nn.ModuleList(DomainLinear(f"{name}.{n}", inputs, *pair) for n, pair in enumerate(widths))
        self.dropouts = nn.ModuleList(Dropout(dropout) for _ in hidden)

    def forward(self, fields: Mapping[str, Tensor], x_BD: Tensor) -> Tensor:
        """Outputs [B, out] of inputs [B, width], with the weights of the domain or the groups in `fields`."""
        *hidden, last = self.layers
        for layer, dropout in zip(hidden, self.dropouts, strict=True):
            x_BD = dropout(relu(layer(fields, x_BD)))
        out: Tensor = last(fields, x_BD)
        return out


def start_uniform(parameter: Tensor, width: int) -> nn.Parameter:
    """Initialise a parameter like the weights of `nn.Linear` with `width` inputs."""
    return nn.Parameter(torch.nn.init.uniform_(parameter, -(width**-0.5), width**-0.5))


def normalize(x: Tensor) -> Tensor:
    """Layer normalisation over the last dimension, without scale and shift.

    Inside `torch.func.vmap`, torch's own makes torch 2.9 compile again for every number of trajectories.
    """
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
