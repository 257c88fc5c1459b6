"""Shared-Bottom: one network for all domains, a tower for each (Ruder 2017).

Shape suffixes: B rows, D width of a field.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.config.models import ModelSettings
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import DomainPerceptron, hidden_layers
from mamdr_core.models.tables import Inputs


class SharedBottom(nn.Module):
    """Shared hidden layers, then a tower of each domain.

    Args:
        inputs: the fields.
        settings: `shared_bottom` sizes and `dropout`.
    """

    mixes_domains = True

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        sizes = settings.shared_bottom
        self.names = inputs.names
        self.bottom = nn.Sequential(*hidden_layers(inputs.width, sizes.hidden, settings.dropout))
        self.tower = DomainPerceptron("tower", inputs, sizes.hidden[-1], sizes.tower, 1, settings.dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        logits_B1: Tensor = self.tower(fields, self.bottom(join_fields(fields, self.names)))
        return logits_B1.squeeze(1)
