"""AutoInt: self-attention between fields (Song et al. 2019).

Shape suffixes: B rows, F fields, D width of an embedding, H heads, W width of a head.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import relu

from mamdr_core.config.models import ModelSettings
from mamdr_core.models.dropout import Dropout
from mamdr_core.models.fields import FieldEmbeddings
from mamdr_core.models.mlp import MLP
from mamdr_core.models.tables import Inputs


class AutoInt(nn.Module):
    """AutoInt+: the sum of the logits of interacting layers over field embeddings and of an MLP.

    The MLP is included because the paper lists hidden layers for AutoInt, as for all single-domain structures.

    Args:
        inputs: the fields.
        settings: `embedding_dim`; `autoint` sizes of the interacting layers; `hidden` widths of the MLP; `dropout`,
            also of attention weights.
    """

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        sizes = settings.autoint
        self.embeddings = FieldEmbeddings(inputs, settings.embedding_dim)
        widths = [settings.embedding_dim] + [sizes.heads * sizes.width] * sizes.layers
        self.layers = nn.ModuleList(
            InteractingLayer(width, sizes.heads, sizes.width, settings.dropout) for width in widths[:-1]
        )
        self.out = nn.Linear(self.embeddings.count * widths[-1], 1)
        self.deep = MLP(inputs, settings)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        x_BFD = self.embeddings(fields)
        for layer in self.layers:
            x_BFD = layer(x_BFD)
        logits_B: Tensor = self.out(x_BFD.flatten(1)).squeeze(1) + self.deep(fields)
        return logits_B


class InteractingLayer(nn.Module):
    """Multi-head self-attention over fields with a residual (Song et al. 2019, Eq. 5 to 8).

    Args:
        width: width D of each field's embedding.
        heads: number of heads H.
        head_width: width W of a head.
        dropout: dropout rate of the attention weights.
    """

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.shape = (heads, head_width)
        self.query, self.key, self.value, self.residual = (
            nn.Linear(width, heads * head_width, bias=False) for _ in range(4)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """Embeddings [B, F, H * W] of embeddings [B, F, D]."""
        query_BHFW, key_BHFW, value_BHFW = (
            layer(x_BFD).unflatten(2, self.shape).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights_BHFF = self.dropout((query_BHFW @ key_BHFW.transpose(2, 3)).softmax(3))
        attended_BFD = (weights_BHFF @ value_BHFW).transpose(1, 2).flatten(2)
        return relu(attended_BFD + self.residual(x_BFD))
