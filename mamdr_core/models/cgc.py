"""CGC: customised gate control, with shared experts and experts of each domain (Tang et al. 2020, section 4.1).

Shape suffixes: B rows, D width of the input, E experts, H outputs of an expert.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.config.models import CGCSettings, ModelSettings
from mamdr_core.models.experts import domain_experts, join_experts, mix, shared_experts
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import DomainPerceptron, perceptron
from mamdr_core.models.tables import Inputs


class CGC(nn.Module):
    """One level of extraction, then a tower of each domain (Tang et al. 2020, Eq. 1 to 4).

    Args:
        inputs: the fields.
        settings: `cgc` sizes and `dropout`.
    """

    mixes_domains = True

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        sizes, dropout = settings.cgc, settings.dropout
        self.names = inputs.names
        self.level = ExtractionLevel("level_0", inputs, inputs.width, sizes, dropout)
        self.tower = DomainPerceptron("tower", inputs, sizes.expert_hidden[-1], sizes.tower, 1, dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        x_BD = join_fields(fields, self.names)
        own_BH, _ = self.level(fields, x_BD, x_BD)
        logits_B1: Tensor = self.tower(fields, own_BH)
        return logits_B1.squeeze(1)


class ExtractionLevel(nn.Module):
    """Shared and domain experts, mixed by a gate of each domain and, unless it is the last level, by a shared gate.

    In the paper, the shared gate mixes the experts of all domains. Here a row is computed with the weights of its own
    domain only, so the shared gate mixes the shared experts and those of that domain.

    Args:
        name: name of the level within the structure.
        inputs: the fields.
        width: width of the level's input.
        sizes: sizes of experts and gates.
        dropout: dropout rate after hidden layers.
        last: whether this is the last level.
    """

    def __init__(
        self, name: str, inputs: Inputs, width: int, sizes: CGCSettings, dropout: float, last: bool = True
    ) -> None:
        super().__init__()
        number = sizes.shared_experts + sizes.specific_experts
        hidden = sizes.expert_hidden
        self.shared = shared_experts(sizes.shared_experts, width, hidden, dropout)
        self.specific = domain_experts(f"{name}.expert", inputs, sizes.specific_experts, width, hidden, dropout)
        self.gate = DomainPerceptron(f"{name}.gate", inputs, width, sizes.gate, number, dropout)
        self.shared_gate = None if last else perceptron(width, sizes.gate, dropout, number)

    def forward(self, fields: Mapping[str, Tensor], own_BD: Tensor, shared_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Outputs of the domain's and of the shared gate, [B, H] each; the second is None for the last level.

        Args:
            fields: the fields, with the weights of the rows' domains.
            own_BD: output of the previous level's domain gate.
            shared_BD: output of its shared gate.
        """
        experts_BEH = join_experts(self.specific(fields, own_BD), self.shared(fields, shared_BD))
        extracted_BH = mix(self.gate(fields, own_BD), experts_BEH)
        return extracted_BH, None if self.shared_gate is None else mix(self.shared_gate(shared_BD), experts_BEH)
