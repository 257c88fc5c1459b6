"""Inputs of structures: concatenated fields, field embeddings of one width, and a linear model of the fields.

Shape suffixes: B rows, D width of a field, F fields, K numeric features.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mamdr_core.models.layers import TableLayer, start_uniform
from mamdr_core.models.tables import Inputs, Table


def join_fields(fields: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Concatenate the named fields [B, D] to [B, sum of D].

    They are padded and summed. Inside `torch.func.vmap`, `torch.cat` would make torch 2.9 compile again for every
    number of rows or trajectories. Compiled, both are one copy.
    """
    total = sum(fields[name].shape[-1] for name in names)
    left = 0
    padded = []
    for name in names:
        width = fields[name].shape[-1]
        padded.append(pad(fields[name], (left, total - left - width)))
        left += width
    joined: Tensor = sum(padded[1:], start=padded[0])
    return joined


class FieldEmbeddings(nn.Module):
    """Every feature as an embedding of one width D, for structures with interactions between fields.

    Embeddings of width D are unchanged. Other embeddings and fixed vectors are mapped to D by a matrix. A numeric
    feature k is its value times a learned vector v_k (AutoInt, Song et al. 2019, Eq. 4).

    Args:
        inputs: the fields.
        width: width D of the embeddings.

    Attributes:
        count: number of fields F; each numeric feature is one field.
    """

    def __init__(self, inputs: Inputs, width: int) -> None:
        super().__init__()
        self.names, self.width = inputs.names, width
        self.count = len(inputs.features) + inputs.numeric
        self.maps = nn.ModuleDict(
            {
                _key(table.name): nn.Linear(table.width, width, bias=False)
                for table in inputs.features
                if not (table.trainable and table.width == width)
            }
        )
        if inputs.numeric:
            self.numeric_KD = start_uniform(torch.empty(inputs.numeric, width), width)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Embeddings [B, F, D] of fields."""
        embedded = {name: self._embed(name, fields[name]) for name in self.names}
        embedded_BFD: Tensor = join_fields(embedded, self.names).unflatten(1, (self.count, self.width))
        return embedded_BFD

    def _embed(self, name: str, field_BD: Tensor) -> Tensor:
        if name == "numeric":
            return (field_BD.unsqueeze(2) * self.numeric_KD).flatten(1)
        embedded_BD: Tensor = self.maps[_key(name)](field_BD) if _key(name) in self.maps else field_BD
        return embedded_BD


def _key(name: str) -> str:
    """Name of a feature's submodule; the prefix avoids names of module methods, such as "type"."""
    return f"map_{name}"


class FirstOrder(TableLayer):
    """A linear model of the features: a weight for each id, each entry of a vector and each numeric feature.

    It is the wide part of WDL without crossed features, and the first order of factorisation machines. Weights of ids
    are rows of tables of width 1 and start at zero, other weights do not. The weights of a bag or sequence are summed,
    multiplied by the ids' weights. They are not shared with another table, because a clicked item carries different
    information from the item shown.

    Args:
        inputs: the fields.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.tables = tuple(
            Table(
                f"first_order.{table.name}",
                table.column,
                table.rows,
                1,
                feature=False,
                std=0.0,
                length=table.length,
                pooling="sum",
            )
            for table in inputs.features
            if table.trainable
        )
        trained = {table.name for table in inputs.features if table.trainable}
        self.dense = tuple(name for name in inputs.names if name not in trained)
        width = inputs.width - sum(table.width for table in inputs.features if table.trainable)
        self.linear = nn.Linear(width, 1, bias=False) if width else None

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        weights = [fields[table.name] for table in self.tables]
        total_B1: Tensor = sum(weights[1:], start=weights[0])
        if self.linear is not None:
            total_B1 = total_B1 + self.linear(join_fields(fields, self.dense))
        return total_B1.squeeze(1)
