"""Fields side by side, the input of most structures; as embeddings of one width; and weighted one by one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mamdr_core.models.layers import TableLayer, start_uniform
from mamdr_core.models.tables import Inputs, Table


def join_fields(fields: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """The named fields [B, D] side by side, [B, sum of D].

    A sum of padded fields, not `torch.cat`: inside `torch.func.vmap` that fixes the sizes of whatever is being
    compiled, so that every new number of rows or trajectories would be compiled anew (torch 2.9). Compiled, both are
    one copy.
    """
    width = sum(fields[name].shape[-1] for name in names)
    left = 0
    padded = []
    for name in names:
        own = fields[name].shape[-1]
        padded.append(pad(fields[name], (left, width - left - own)))
        left += own
    joined: Tensor = sum(padded[1:], start=padded[0])
    return joined


class FieldEmbeddings(nn.Module):
    """Every feature as an embedding of one width D, for structures that let fields interact.

    Embeddings of width D stay as they are; others and fixed vectors are mapped to it by a matrix; a numeric feature k
    is its value times a learned vector v_k (AutoInt, Song et al. 2019, Eq. 4).

    Args:
        inputs: the fields.
        width: D.

    Attributes:
        count: number of fields F; a numeric feature is one each.
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
        """[B, F, D]."""
        embedded = {name: self._embed(name, fields[name]) for name in self.names}
        embedded_BFD: Tensor = join_fields(embedded, self.names).unflatten(1, (self.count, self.width))
        return embedded_BFD

    def _embed(self, name: str, field_BD: Tensor) -> Tensor:
        if name == "numeric":
            return (field_BD.unsqueeze(2) * self.numeric_KD).flatten(1)
        embedded_BD: Tensor = self.maps[_key(name)](field_BD) if _key(name) in self.maps else field_BD
        return embedded_BD


def _key(name: str) -> str:
    """A feature's name as one of a submodule: some, as "type", are those of a module's methods."""
    return f"map_{name}"


class FirstOrder(TableLayer):
    """A linear model of the features: a weight for each id, and for each number of vectors and numeric features.

    The wide part of WDL without crossed features, and the first order of factorisation machines. Weights of ids are
    rows of tables of width 1; all start at zero but those of numbers. Those of several ids of a row are summed, each
    times its weight; they are never shared, as a clicked item carries different information from the item shown.

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
        self.numbers = tuple(name for name in inputs.names if name not in trained)
        width = inputs.width - sum(table.width for table in inputs.features if table.trainable)
        self.linear = nn.Linear(width, 1, bias=False) if width else None

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Its share [B] of the logits."""
        weights = [fields[table.name] for table in self.tables]
        total_B1: Tensor = sum(weights[1:], start=weights[0])
        if self.linear is not None:
            total_B1 = total_B1 + self.linear(join_fields(fields, self.numbers))
        return total_B1.squeeze(1)
