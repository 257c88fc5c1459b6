"""MLP: the paper's base structure, fully connected layers over the concatenated fields (section 5.2).

Shape suffixes: B rows, D width of a field.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.config.models import ModelSettings
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import perceptron
from mamdr_core.models.tables import Inputs


class MLP(nn.Module):
    """Fully connected layers with ReLU and dropout, then one logit.

    Args:
        inputs: the fields.
        settings: `hidden` widths and `dropout`.
    """

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        self.names = inputs.names
        self.layers = perceptron(inputs.width, settings.hidden, settings.dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        logits_B1: Tensor = self.layers(join_fields(fields, self.names))
        return logits_B1.squeeze(1)
