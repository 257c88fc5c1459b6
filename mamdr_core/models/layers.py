"""Layers that several structures share: stacks of fully connected layers, and layers whose weights are tables' rows."""

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
    """A layer that reads weights of its own from the batch's fields.

    Attributes:
        tables: what holds them; `declare_inputs` adds these to the inputs of a structure that has the layer.
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
    """Hidden layers and, by default, one logit: [B, width] to [B, out]."""
    return nn.Sequential(*hidden_layers(width, hidden, dropout), nn.Linear((width, *hidden)[-1], out))


def default_std(width: int) -> float:
    """Standard deviation of what `nn.Linear` of `width` inputs starts from, U(-1/sqrt(width), 1/sqrt(width))."""
    return float((3 * width) ** -0.5)


def domain_table(name: str, inputs: Inputs, width: int, std: float = 0.0) -> Table:
    """Weights of every domain, which a structure's layer reads once for each domain of a batch.

    The field is [1, width], of one domain, unless the structure mixes domains, see `groups.mixes_domains`.
    """
    return Table(name, "domain", inputs.domain_rows, width, feature=False, per_domain=True, std=std)


def domain_vector(name: str, inputs: Inputs, width: int) -> Table:
    """A vector of every domain that starts at zero, narrow enough to be read for every row, [B, width].

    So a call may hold rows of many domains, which tables of `domain_table` do not allow.
    """
    return Table(name, "domain", inputs.domain_rows, width, feature=False, std=0.0)


class DomainLinear(TableLayer):
    """A fully connected layer of which every domain has its own.

    Args:
        name: of the layer within its structure.
        inputs: the fields.
        width: inputs of the layer.
        out: its outputs.
    """

    def __init__(self, name: str, inputs: Inputs, width: int, out: int) -> None:
        super().__init__()
        self.name, self.shape = name, (out, width)
        self.tables = (
            domain_table(f"{name}.weight", inputs, out * width, default_std(width)),
            domain_table(f"{name}.bias", inputs, out),
        )

    def forward(self, fields: Mapping[str, Tensor], x_BD: Tensor) -> Tensor:
        """[B, width] to [B, out], by the weights of the domain or the groups that `fields` show."""
        weight, bias = (fields[table.name] for table in self.tables)
        if SIZES in fields:
            return grouped_linear(x_BD, weight.view(-1, *self.shape), bias, fields[SIZES])
        return linear(x_BD, weight.view(self.shape), bias.view(-1))


class DomainPerceptron(nn.Module):
    """Hidden layers and outputs of which every domain has its own: a tower, or a gate.

    Args:
        name: within its structure.
        inputs: the fields.
        width: of what it is applied to.
        hidden: widths of its hidden layers.
        out: outputs.
        dropout: rate after each hidden layer.
    """

    def __init__(self, name: str, inputs: Inputs, width: int, hidden: Sequence[int], out: int, dropout: float) -> None:
        super().__init__()
        widths = pairwise((width, *hidden, out))
        self.layers = nn.ModuleList(DomainLinear(f"{name}.{n}", inputs, *pair) for n, pair in enumerate(widths))
        self.dropouts = nn.ModuleList(Dropout(dropout) for _ in hidden)

    def forward(self, fields: Mapping[str, Tensor], x_BD: Tensor) -> Tensor:
        """[B, width] to [B, out], by the weights of the domain or the groups that `fields` show."""
        *hidden, last = self.layers
        for layer, dropout in zip(hidden, self.dropouts, strict=True):
            x_BD = dropout(relu(layer(fields, x_BD)))
        out: Tensor = last(fields, x_BD)
        return out


def start_uniform(parameter: Tensor, width: int) -> nn.Parameter:
    """A parameter as `nn.Linear` of `width` inputs starts it."""
    return nn.Parameter(torch.nn.init.uniform_(parameter, -(width**-0.5), width**-0.5))


def normalize(x: Tensor) -> Tensor:
    """Layer normalisation over the last dimension, without scale and shift.

    Written out: inside `torch.func.vmap`, torch's own makes torch 2.9 compile every number of trajectories anew.
    """
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
