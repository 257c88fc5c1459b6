"""MaskNet: blocks whose inputs are scaled by a mask of the whole instance (Wang, She and Zhang 2021).

Shape suffixes: B rows, F fields, D width of an embedding, I = F * D, H outputs of a block.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mamdr_core.config.models import ModelSettings, check_sizes
from mamdr_core.config.settings import settings
from mamdr_core.models.fields import FieldEmbeddings, join_fields
from mamdr_core.models.layers import normalize, perceptron
from mamdr_core.models.tables import Inputs


@settings
class MaskNetOptions:
    """`model.options` of masknet."""

    blocks: int = 3
    """Number of MaskBlocks."""
    width: int = 64
    """Number of outputs of a block."""
    reduction: float = 2.0
    """Width of a mask's hidden layer, relative to the total width of a row's embeddings."""

    def __post_init__(self) -> None:
        check_sizes(blocks=self.blocks, width=self.width)
        if not 0 < self.reduction <= 16:
            raise ValueError(f"reduction must be in (0, 16], got {self.reduction}")


class MaskNet(nn.Module):
    """Parallel MaskBlocks over normalised embeddings, then an MLP over their outputs.

    "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided Mask", the parallel
    model. Fields are embeddings of one width (`FieldEmbeddings`), and each field has a scale and a shift for its
    normalisation. Normalisation removes the length of an embedding, so the magnitude of a numeric feature acts only
    through the mask, which reads the embeddings before normalisation.

    Args:
        inputs: the fields.
        settings: `embedding_dim`; `hidden` widths of the MLP and `dropout`.
        options: settings of the blocks.
    """

    Options = MaskNetOptions

    def __init__(self, inputs: Inputs, settings: ModelSettings, options: MaskNetOptions) -> None:
        super().__init__()
        self.embeddings = FieldEmbeddings(inputs, settings.embedding_dim)
        shape = (self.embeddings.count, settings.embedding_dim)
        self.scale_FD = nn.Parameter(torch.ones(shape))
        self.shift_FD = nn.Parameter(torch.zeros(shape))
        width = shape[0] * shape[1]
        aggregated = max(1, round(options.reduction * width))
        self.blocks = nn.ModuleDict(
            {f"block_{n}": MaskBlock(width, aggregated, options.width) for n in range(options.blocks)}
        )
        self.layers = perceptron(options.blocks * options.width, settings.hidden, settings.dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        x_BFD = self.embeddings(fields)
        normal_BFD = normalize(x_BFD) * self.scale_FD + self.shift_FD
        x_BI, normal_BI = x_BFD.flatten(1), normal_BFD.flatten(1)
        outputs = {name: block(x_BI, normal_BI) for name, block in self.blocks.items()}
        logits_B1: Tensor = self.layers(join_fields(outputs, tuple(outputs)))
        return logits_B1.squeeze(1)


class MaskBlock(nn.Module):
    """ReLU(LN(W (mask * LN_EMB(e)))), where mask = W_2 ReLU(W_1 e + b_1) + b_2 of the instance's embeddings e.

    Args:
        width: total width I of a row's embeddings.
        aggregated: width of the mask's hidden layer.
        out: number of outputs H.
    """

    def __init__(self, width: int, aggregated: int, out: int) -> None:
        super().__init__()
        self.mask = nn.Sequential(nn.Linear(width, aggregated), nn.ReLU(), nn.Linear(aggregated, width))
        self.hidden = nn.Linear(width, out, bias=False)
        self.scale_H, self.shift_H = nn.Parameter(torch.ones(out)), nn.Parameter(torch.zeros(out))

    def forward(self, x_BI: Tensor, normal_BI: Tensor) -> Tensor:
        """Outputs [B, H] of a row's embeddings and normalised embeddings, [B, I] each."""
        normal_BH = normalize(self.hidden(self.mask(x_BI) * normal_BI))
        return relu(normal_BH * self.scale_H + self.shift_H)
