"""DeepFM: a factorisation machine and an MLP over the same embeddings (Guo et al. 2017).

Shape suffixes: B rows, F fields, D width of an embedding.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.config.models import ModelSettings
from mamdr_core.models.fields import FieldEmbeddings, FirstOrder
from mamdr_core.models.mlp import MLP
from mamdr_core.models.tables import Inputs


class DeepFM(nn.Module):
    """Sum of a first order, inner products of all pairs of fields, and an MLP (Guo et al., Eq. 1 and 2).

    The MLP reads the declared fields; the factorisation machine maps them to one width first (`FieldEmbeddings`).

    Args:
        inputs: the fields.
        settings: `embedding_dim`; `hidden` widths of the deep part and `dropout`.
    """

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        self.first_order = FirstOrder(inputs)
        self.embeddings = FieldEmbeddings(inputs, settings.embedding_dim)
        self.deep = MLP(inputs, settings)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        pairs_B = pair_products(self.embeddings(fields)).sum(1)
        logits_B: Tensor = self.first_order(fields) + pairs_B + self.deep(fields)
        return logits_B


def pair_products(embeddings_BFD: Tensor) -> Tensor:
    """Sum over pairs of fields of their elementwise products, [B, D], in linear time (He and Chua 2017, Eq. 4)."""
    return (embeddings_BFD.sum(1).square() - embeddings_BFD.square().sum(1)) / 2
