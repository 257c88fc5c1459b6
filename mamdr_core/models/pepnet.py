"""PEPNet: embeddings gated by the domain, hidden units gated by the user and the item (Chang et al. 2023).

Shape suffixes: B rows, D width of all fields or of a hidden layer, P inputs of a gate.
"""

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import relu

from mamdr_core.config.models import ModelSettings, check_sizes
from mamdr_core.config.settings import settings
from mamdr_core.models.dropout import Dropout
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import perceptron
from mamdr_core.models.tables import Inputs

GATED = "pepnet.gated"
"""Name of the detached embeddings among the fields that gates read."""


@settings
class PEPNetOptions:
    """`model.options` of pepnet."""

    gate: tuple[int, ...] = (64,)
    """Widths of the hidden layers of each gate."""

    def __post_init__(self) -> None:
        check_sizes(gate=self.gate)


class PEPNet(nn.Module):
    """EPNet and PPNet ("PEPNet: Parameter and Embedding Personalized Network", Chang et al. 2023) with a single task.

    EPNet: E' = 2 sigmoid(U(E_domain, stop(E))) * E, where E are the concatenated features and E_domain the features of
    the domain. PPNet: the output of hidden layer l is 2 sigmoid(U_l(E_prior, stop(E'))) * ReLU(W_l h + b_l), where
    E_prior are the embeddings and vectors of the user, the item and the domain. stop blocks gradients, so that gates do
    not affect the embeddings of other features. Each U is a network with one hidden layer. All weights are shared, and
    domains differ only by their features. There is one tower, since there is a single task.

    Args:
        inputs: the fields.
        settings: `hidden` widths of the gated layers and `dropout`.
        options: settings of the gates.
    """

    Options = PEPNetOptions

    def __init__(self, inputs: Inputs, settings: ModelSettings, options: PEPNetOptions) -> None:
        super().__init__()
        self.names, width = inputs.names, inputs.width
        domain = [table for table in inputs.features if table.column == "domain"]
        prior = [table for table in inputs.features if table.column in ("user", "item", "domain")]
        self.domain, self.prior = ([table.name for table in tables] for tables in (domain, prior))
        domain_width, prior_width = (sum(table.width for table in tables) for tables in (domain, prior))
        self.embedding_gate = Gate(domain_width + width, options.gate, width)
        self.unit_gates = nn.ModuleList(Gate(prior_width + width, options.gate, each) for each in settings.hidden)
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise((width, *settings.hidden)))
        self.dropouts = nn.ModuleList(Dropout(settings.dropout) for _ in settings.hidden)
        self.out = nn.Linear((width, *settings.hidden)[-1], 1)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        x_BD = join_fields(fields, self.names)
        h_BD = x_BD * self.embedding_gate(_gate_input(fields, self.domain, x_BD))
        prior_BP = _gate_input(fields, self.prior, h_BD)
        for layer, gate, dropout in zip(self.hidden, self.unit_gates, self.dropouts, strict=True):
            h_BD = dropout(gate(prior_BP) * relu(layer(h_BD)))
        logits_B1: Tensor = self.out(h_BD)
        return logits_B1.squeeze(1)


class Gate(nn.Module):
    """Gate NU: twice the sigmoid of a small network, which is initially near 1.

    Args:
        width: number of inputs.
        hidden: widths of the hidden layers.
        out: number of factors.
    """

    def __init__(self, width: int, hidden: tuple[int, ...], out: int) -> None:
        super().__init__()
        self.layers = perceptron(width, hidden, 0.0, out)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Factors [B, out] between 0 and 2 of inputs [B, width]."""
        factors: Tensor = 2 * self.layers(x_BD).sigmoid()
        return factors


def _gate_input(fields: Mapping[str, Tensor], names: list[str], x_BD: Tensor) -> Tensor:
    """The named fields and the detached `x_BD`, concatenated."""
    return join_fields({**fields, GATED: x_BD.detach()}, (*names, GATED))
