"""RAW: a substitute for the paper's production structure, which is not public (section 5.5).

Shape suffixes: B rows, D width of a field or of all fields.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.config.models import ModelSettings
from mamdr_core.models.fields import FirstOrder, join_fields
from mamdr_core.models.layers import perceptron
from mamdr_core.models.tables import Inputs


class RAW(nn.Module):
    """Sum of a wide part and an MLP over features that are scaled by a gate.

    The paper states only that RAW serves Taobao. This structure combines common parts of such systems: the wide part of
    WDL, and the gate of PEPNet's EPNet (Chang et al. 2023, Eq. 1 and 2). The gate scales every entry of the
    concatenated features by twice the sigmoid of a small network over all features, the domain's embedding included,
    without gradients to its inputs. All weights are shared.

    Args:
        inputs: the fields.
        settings: `raw.gate` widths of the gate's hidden layers, `hidden` widths of the MLP, `dropout`.
    """

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        self.names = inputs.names
        self.wide = FirstOrder(inputs)
        self.gate = perceptron(inputs.width, settings.raw.gate, 0.0, inputs.width)
        self.layers = perceptron(inputs.width, settings.hidden, settings.dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        x_BD = join_fields(fields, self.names)
        scale_BD = 2 * self.gate(x_BD.detach()).sigmoid()
        logits_B: Tensor = self.wide(fields) + self.layers(x_BD * scale_BD).squeeze(1)
        return logits_B
