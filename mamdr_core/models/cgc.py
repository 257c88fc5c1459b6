"""CGC: customised gate control, experts of all domains and of each (Tang et al. 2020, section 4.1)."""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.models.experts import domain_experts, mix, shared_experts, side_by_side
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import DomainPerceptron, perceptron
from mamdr_core.models.settings import CGCSettings, ModelSettings
from mamdr_core.models.tables import Inputs


class CGC(nn.Module):
    """One level of extraction, then a tower of the domain's own (Tang et al. 2020, Eq. 1 to 4).

    Args:
        inputs: the fields.
        settings: `cgc` sizes and `dropout`.
    """

    mixes_domains = True

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        own, dropout = settings.cgc, settings.dropout
        self.names = inputs.names
        self.level = ExtractionLevel("level_0", inputs, inputs.width, own, dropout)
        self.tower = DomainPerceptron("tower", inputs, own.expert_hidden[-1], own.tower, 1, dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        x_BD = join_fields(fields, self.names)
        own_BH, _ = self.level(fields, x_BD, x_BD)
        logits_B1: Tensor = self.tower(fields, own_BH)
        return logits_B1.squeeze(1)


class ExtractionLevel(nn.Module):
    """Experts of all domains and of the domain, mixed by the domain's gate and, where more levels follow, a shared one.

    The original's shared gate mixes the experts of all domains. Here a row is computed with the weights of its own
    domain alone, so the shared gate mixes the shared experts and those of that domain.

    Args:
        name: within the structure.
        inputs: the fields.
        width: of what it is applied to.
        sizes: of experts and gates.
        dropout: rate after hidden layers.
        last: whether no level follows.
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
        """What the domain's and the shared gate extract, [B, H] each; no second where no level follows.

        Args:
            fields: with the weights of the rows' domains.
            own_BD: what the level before extracted for the domain.
            shared_BD: what it extracted for all.
        """
        experts_BEH = side_by_side(self.specific(fields, own_BD), self.shared(fields, shared_BD))
        extracted_BH = mix(self.gate(fields, own_BD), experts_BEH)
        return extracted_BH, None if self.shared_gate is None else mix(self.shared_gate(shared_BD), experts_BEH)
