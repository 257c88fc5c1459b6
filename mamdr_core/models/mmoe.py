"""MMOE: shared experts, mixed by a gate of each domain (Ma et al. 2018).

Shape suffixes: B rows, D width of all fields, H outputs of an expert.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.config.models import ModelSettings
from mamdr_core.models.experts import mix, shared_experts
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import DomainPerceptron
from mamdr_core.models.tables import Inputs


class MMOE(nn.Module):
    """Shared experts, and a gate and a tower of each domain (Ma et al. 2018, Eq. 5 to 7).

    A gate has hidden layers before its softmax, as in the MAMDR paper and DeepCTR; the gate of Ma et al. is linear
    (`mmoe.gate: []`).

    Args:
        inputs: the fields.
        settings: `mmoe` sizes and `dropout`.
    """

    mixes_domains = True

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        sizes, dropout = settings.mmoe, settings.dropout
        self.names = inputs.names
        self.experts = shared_experts(sizes.experts, inputs.width, sizes.expert_hidden, dropout)
        self.gate = DomainPerceptron("gate", inputs, inputs.width, sizes.gate, sizes.experts, dropout)
        self.tower = DomainPerceptron("tower", inputs, sizes.expert_hidden[-1], sizes.tower, 1, dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        x_BD = join_fields(fields, self.names)
        mixed_BH = mix(self.gate(fields, x_BD), self.experts(fields, x_BD))
        logits_B1: Tensor = self.tower(fields, mixed_BH)
        return logits_B1.squeeze(1)
