"""M3oE: shared and domain experts over a representation of the domain, with learned balances (Zhang et al. 2024).

Shape suffixes: B rows, D width of the input, O and H widths of outputs, E experts.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mamdr_core.config.models import ModelSettings, check_layers, check_sizes
from mamdr_core.config.settings import settings
from mamdr_core.models.dropout import Dropout
from mamdr_core.models.experts import mix, shared_experts
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import TableLayer, domain_vector, perceptron
from mamdr_core.models.tables import Inputs


@settings
class M3oEOptions:
    """`model.options` of m3oe."""

    representation: int = 256
    """Width of the domain's representation of a row."""
    shared_experts: int = 4
    """Experts of all domains, mixed by a gate."""
    domain_experts: int = 4
    """Experts in the pool that each domain mixes by its own weights."""
    expert_hidden: tuple[int, ...] = (128, 64)
    """Widths of an expert's hidden layers."""
    tower: tuple[int, ...] = (64,)
    """Widths of the hidden layers of the tower."""

    def __post_init__(self) -> None:
        check_sizes(**vars(self))
        check_layers("expert_hidden", self.expert_hidden)
        if self.domain_experts < 2:
            raise ValueError(f"domain_experts must be >= 2, got {self.domain_experts}")


class M3oE(nn.Module):
    """Shared and domain experts, fused at two levels by learned weights, for a single task and many domains.

    "M3oE: Multi-Domain Multi-Task Mixture-of-Experts Recommendation Framework" (Zhang et al. 2024). z is the domain's
    representation of a row (`DomainRepresentation`). The first level mixes shared experts by the softmax of a gate, and
    balances the domain's expert against the others: beta * own + (1 - beta) * mean of the others. The second level adds
    alpha times the latter to the former, and the tower reads the sum. alpha and beta are sigmoids of one learned number
    each.

    The paper has an expert, a gate, a tower and first-layer weights for each of its few domains. For many domains:

    - The domain's expert is a mixture of a pool of experts, weighted by the softmax s of the domain's logits. With a
      one-hot s, this is the paper's formula with one expert for each domain.
    - The gate and the tower are shared, and the gate reads the domain's embedding.

    With a single task, the paper's experts of tasks, their two weights, and the towers of further tasks are left out.
    alpha and beta are trained together with all other weights, not on validation rows by the paper's bi-level search.

    Args:
        inputs: the fields.
        settings: `dropout`.
        options: sizes.
    """

    Options = M3oEOptions

    def __init__(self, inputs: Inputs, settings: ModelSettings, options: M3oEOptions) -> None:
        super().__init__()
        width, dropout = options.representation, settings.dropout
        domain = [table for table in inputs.features if table.column == "domain"]
        self.names, self.domain = inputs.names, [table.name for table in domain]
        self.represent = DomainRepresentation(inputs, width, dropout)
        self.gate = nn.Linear(width, options.shared_experts)
        self.domain_gate = nn.Linear(sum(table.width for table in domain), options.shared_experts, bias=False)
        self.shared = shared_experts(options.shared_experts, width, options.expert_hidden, dropout)
        self.pool = shared_experts(options.domain_experts, width, options.expert_hidden, dropout)
        self.choice = PoolLogits(inputs, options.domain_experts)
        self.alpha, self.beta = (nn.Parameter(torch.zeros(1)) for _ in range(2))
        self.tower = perceptron(options.expert_hidden[-1], options.tower, dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        z_BD = self.represent(fields, join_fields(fields, self.names))
        gate_BE = self.gate(z_BD) + self.domain_gate(join_fields(fields, self.domain))
        shared_BH = mix(gate_BE, self.shared(fields, z_BD))
        own_BE = self.choice(fields).softmax(1)
        others_BE = (1 - own_BE) / (own_BE.shape[1] - 1)
        beta = self.beta.sigmoid()
        weights_BE = beta * own_BE + (1 - beta) * others_BE
        domain_BH = (weights_BE.unsqueeze(1) @ self.pool(fields, z_BD)).squeeze(1)
        logits_B1: Tensor = self.tower(shared_BH + self.alpha.sigmoid() * domain_BH)
        return logits_B1.squeeze(1)


class DomainRepresentation(TableLayer):
    """ReLU((W * W_d) x + b + b_d), the paper's first layer, with a W_d of rank one.

    W_d = (1 + u_d) (1 + v_d)^T: the domain scales inputs and outputs of the shared layer by vectors that start at 1.

    Args:
        inputs: the fields.
        out: width of the representation.
        dropout: dropout rate of the representation.
    """

    def __init__(self, inputs: Inputs, out: int, dropout: float) -> None:
        super().__init__()
        self.shared = nn.Linear(inputs.width, out)
        self.dropout = Dropout(dropout)
        self.tables = (
            domain_vector("represent.inputs", inputs, inputs.width),
            domain_vector("represent.outputs", inputs, out),
            domain_vector("represent.bias", inputs, out),
        )

    def forward(self, fields: Mapping[str, Tensor], x_BD: Tensor) -> Tensor:
        """Representations [B, out] of rows [B, D]."""
        inputs_BD, outputs_BO, bias_BO = (fields[table.name] for table in self.tables)
        scaled_BO = (x_BD * (1 + inputs_BD)) @ self.shared.weight.T * (1 + outputs_BO)
        z_BO: Tensor = self.dropout(relu(scaled_BO + self.shared.bias + bias_BO))
        return z_BO


class PoolLogits(TableLayer):
    """A domain's logits over a pool of experts.

    Args:
        inputs: the fields.
        experts: number of experts E in the pool.
    """

    def __init__(self, inputs: Inputs, experts: int) -> None:
        super().__init__()
        self.tables = (domain_vector("choice.logits", inputs, experts),)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, E] of the rows' domains."""
        return fields[self.tables[0].name]
