"""WDL: wide and deep (Cheng et al. 2016).

Shape suffixes: B rows, D width of a field.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.config.models import ModelSettings
from mamdr_core.models.fields import FirstOrder
from mamdr_core.models.mlp import MLP
from mamdr_core.models.tables import Inputs


class WDL(nn.Module):
    """Sum of the logits of a linear model, which memorises ids, and an MLP, which generalises.

    The wide part has no crossed features, which the original chooses by hand for one data set. It is the first order of
    all features, as in DeepCTR, which the MAMDR paper used.

    Args:
        inputs: the fields.
        settings: `hidden` widths of the deep part and `dropout`.
    """

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        self.wide = FirstOrder(inputs)
        self.deep = MLP(inputs, settings)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        logits_B: Tensor = self.wide(fields) + self.deep(fields)
        return logits_B
