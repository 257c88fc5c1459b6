"""Pools the embeddings of a bag or sequence into one, by a mean, sum, maximum or attention.

Shape suffixes: B rows, L ids of a row, D width of an embedding, H hidden units.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mamdr_core.models.groups import mixes_domains
from mamdr_core.models.layers import start_uniform
from mamdr_core.models.statistics import observe
from mamdr_core.models.tables import Inputs, Table

HIDDEN = 36
"""Hidden units of DIN's activation unit (Zhou et al. 2018, figure 2)."""


class PooledStructure(nn.Module):
    """Pools bags and sequences and projects vectors before the wrapped structure reads them.

    An engine may pool by mean or sum itself, since both are linear: fields of two dimensions are not pooled again.

    Args:
        structure: computes logits [B] of fields [B, D].
        inputs: the fields as the engine reads them.
    """

    def __init__(self, structure: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.compiles_in_stacks = getattr(structure, "compiles_in_stacks", True)
        self.mixes_domains = mixes_domains(structure)
        self.several = tuple(table for table in inputs.tables if table.length)
        self.attentions = nn.ModuleDict(
            {_key(table): ActivationUnit(table.width) for table in self.several if table.pooling == "attention"}
        )
        self.projections = nn.ModuleDict(
            {_key(table): nn.Linear(table.width, table.project, bias=False) for table in inputs.tables if table.project}
        )
        self.projected = tuple(table for table in inputs.tables if table.project)
        self.structure = structure  # registered last, so that its last layer is the last layer of this module

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D], or [B, L, D] with their weights [B, L] in a separate field."""
        logits_B: Tensor = self.structure(self._pooled(fields))
        return logits_B

    def observe(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the structure's statistics are of, see `mamdr_core.models.statistics`."""
        return observe(self.structure, self._pooled(fields))

    def _pooled(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The fields that the structure reads."""
        pooled = dict(fields)
        for table in self.several:
            field = fields[table.name]
            if field.dim() == 3:
                pooled[table.name] = self._pool(table, field, fields[table.weight], fields)
        for table in self.projected:
            pooled[table.name] = self.projections[_key(table)](fields[table.name])
        return pooled

    def _pool(self, table: Table, field_BLD: Tensor, weight_BL: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        if table.pooling == "attention":
            pooled_BD: Tensor = self.attentions[_key(table)](fields[table.shares], field_BLD, weight_BL)
            return pooled_BD
        if table.pooling == "max":
            return pool_max(field_BLD, weight_BL)
        return pool_sum(field_BLD, linear_weights(table, weight_BL))


class ActivationUnit(nn.Module):
    """Local activation of DIN (Zhou et al. 2018, Eq. 3 and figure 2): a sum weighted by relevance to the row's item.

    The weight of an embedding k for the row's embedding q is a network of [q, k, q - k, q * k] with one hidden layer of
    PReLU. As in the paper there is no softmax, so the sum of the weights expresses the strength of the interest.

    Args:
        width: width D of the embeddings.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # One layer over [q, k, q - k, q * k], stored as four matrices: inside vmap, slices fix sizes (torch 2.9).
        self.query_HD, self.key_HD, self.difference_HD, self.product_HD = (
            start_uniform(torch.empty(HIDDEN, width), 4 * width) for _ in range(4)
        )
        self.bias_H = start_uniform(torch.empty(HIDDEN), 4 * width)
        self.slope_H = nn.Parameter(torch.full((HIDDEN,), 0.25))
        self.out_H, self.out_bias = (start_uniform(torch.empty(shape), HIDDEN) for shape in (HIDDEN, 1))

    def forward(self, query_BD: Tensor, key_BLD: Tensor, weight_BL: Tensor) -> Tensor:
        """The weighted sum [B, D].

        Args:
            query_BD: embeddings q of the rows' items.
            key_BLD: embeddings k of several ids.
            weight_BL: weights of the ids, 0 for padding.
        """
        # W_k k + W_d (q - k) + W_p (q * k) is the product of k and a matrix of the row, plus a term of q.
        of_row_BHD = (self.key_HD - self.difference_HD) + self.product_HD * query_BD.unsqueeze(1)
        of_query_BH = query_BD @ (self.query_HD + self.difference_HD).t() + self.bias_H
        hidden_BLH = key_BLD @ of_row_BHD.transpose(1, 2) + of_query_BH.unsqueeze(1)
        active_BLH = torch.where(hidden_BLH > 0, hidden_BLH, self.slope_H * hidden_BLH)
        # Not `nn.Linear`: torch 2.9 cannot compile it for three dimensions inside vmap with dynamic sizes.
        score_BL = (active_BLH * self.out_H).sum(2) + self.out_bias
        return pool_sum(key_BLD, score_BL * weight_BL)


def is_linear(table: Table) -> bool:
    """Whether a bag or sequence is pooled by weights that do not depend on parameters."""
    return bool(table.length) and table.pooling in ("mean", "sum")


def linear_weights(table: Table, weight_BL: Tensor) -> Tensor:
    """The weights of the sum that pools a table with linear pooling."""
    return mean_weights(weight_BL) if table.pooling == "mean" else weight_BL


def pool_sum(field_BLD: Tensor, weight_BL: Tensor) -> Tensor:
    """The weighted sum, [B, D]; zeros for rows without ids."""
    return (field_BLD * weight_BL.unsqueeze(2)).sum(1)


def mean_weights(weight_L: Tensor) -> Tensor:
    """Weights [..., L] divided by their sum over a row's ids; unchanged where the sum is zero."""
    total_1 = weight_L.sum(-1, keepdim=True)
    return weight_L / torch.where(total_1 == 0, 1, total_1)


def pool_max(field_BLD: Tensor, weight_BL: Tensor) -> Tensor:
    """The elementwise maximum over the ids with non-zero weight, [B, D]; zeros for rows without such ids."""
    is_present_BL = weight_BL != 0
    lowest = torch.finfo(field_BLD.dtype).min
    largest_BD = torch.where(is_present_BL.unsqueeze(2), field_BLD, lowest).amax(1)
    return torch.where(is_present_BL.any(1, keepdim=True), largest_BD, 0)


def _key(table: Table) -> str:
    """Name of a feature's submodule; the prefix avoids names of module methods."""
    return f"of_{table.name}"
