"""An MLP alongside a linear layer."""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.config.models import ModelSettings
from mamdr_core.config.settings import settings
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import perceptron
from mamdr_core.models.tables import Inputs


@settings
class ResidualOptions:
    """`model.options` of the structure."""

    scale: float = 1.0
    """What the linear layer is multiplied by."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.scale < 0:
            raise ValueError(f"scale must be >= 0, got {self.scale}")


class Residual(nn.Module):
    """Logits of hidden layers, plus those of a linear layer."""

    Options = ResidualOptions

    def __init__(self, inputs: Inputs, settings: ModelSettings, options: ResidualOptions) -> None:
        super().__init__()
        self.names, self.scale = inputs.names, options.scale
        self.linear = nn.Linear(inputs.width, 1)
        self.layers = perceptron(inputs.width, settings.hidden, settings.dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        joined_BD = join_fields(fields, self.names)
        return (self.scale * self.linear(joined_BD) + self.layers(joined_BD)).squeeze(1)
