"""NeurFM: the neural factorisation machine (He and Chua 2017).

Shape suffixes: B rows, D width of an embedding.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.config.models import ModelSettings
from mamdr_core.models.deepfm import pair_products
from mamdr_core.models.dropout import Dropout
from mamdr_core.models.fields import FieldEmbeddings, FirstOrder
from mamdr_core.models.layers import perceptron
from mamdr_core.models.tables import Inputs


class NeurFM(nn.Module):
    """Sum of a first order and an MLP over the pooled products of all pairs of fields (He and Chua 2017, Eq. 2 to 6).

    There is dropout after the pooling too; the original's batch normalisation is left out, as in DeepCTR.

    Args:
        inputs: the fields.
        settings: `embedding_dim`; `hidden` widths of the MLP and `dropout`.
    """

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        self.first_order = FirstOrder(inputs)
        self.embeddings = FieldEmbeddings(inputs, settings.embedding_dim)
        self.dropout = Dropout(settings.dropout)
        self.layers = perceptron(settings.embedding_dim, settings.hidden, settings.dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        pooled_BD = self.dropout(pair_products(self.embeddings(fields)))
        logits_B: Tensor = self.first_order(fields) + self.layers(pooled_BD).squeeze(1)
        return logits_B
