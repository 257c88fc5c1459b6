"""WDL: wide and deep (Cheng et al. 2016)."""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.models.fields import FirstOrder
from mamdr_core.models.mlp import MLP
from mamdr_core.models.settings import ModelSettings
from mamdr_core.models.tables import Inputs


class WDL(nn.Module):
    """A linear model that memorises ids beside an MLP that generalises, their logits added.

    The wide part has no crossed features: in the original these are chosen by hand for one data set. So it is the first
    order of all features, as in DeepCTR, which the paper used.

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
