"""AdaSparse: a network whose units are scaled and switched off by domain (Yang et al. 2022).

Shape suffixes: B rows, D width of the input of a layer, H units of a layer.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mamdr_core.config.models import ModelSettings
from mamdr_core.config.settings import settings
from mamdr_core.models.dropout import Dropout
from mamdr_core.models.fields import join_fields
from mamdr_core.models.tables import Inputs

OWN, OTHERS = "adasparse.domain", "adasparse.others"


@settings
class AdaSparseOptions:
    """`model.options` of adasparse."""

    scale: float = 2.0
    """Largest factor of a unit (beta)."""
    threshold: float = 0.25
    """Units whose factor is not above this value are switched off (epsilon)."""
    temperature: float = 1.0
    """Steepness of the factors as a function of v (alpha)."""

    def __post_init__(self) -> None:
        for name in ("scale", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0 <= self.threshold < self.scale / 2:
            raise ValueError(f"threshold must be in [0, scale / 2), got {self.threshold}")


class AdaSparse(nn.Module):
    """An MLP in which pruners scale the inputs of each layer by domain, and set those with small factors to zero.

    "AdaSparse: Learning Adaptively Sparse Structures for Multi-Domain Click-Through Rate Prediction", with the fused
    weighting factors: h * pi, where pi = beta sigmoid(alpha v) if that is above epsilon, else 0, and v is linear in the
    domain's embedding and h. The first pruner scales all features except the domain's embedding. Pruners are shared by
    all domains and have no weights per domain.

    Two things differ from the paper. alpha is fixed: the paper increases it during training, but independent
    trajectories cannot share such state. The sparsity regulariser is left out, because structures have no loss of their
    own, so the sparsity is not controlled.

    Args:
        inputs: the fields.
        settings: `hidden` widths and `dropout`.
        options: settings of the pruners.
    """

    Options = AdaSparseOptions

    def __init__(self, inputs: Inputs, settings: ModelSettings, options: AdaSparseOptions) -> None:
        super().__init__()
        domain = [table for table in inputs.features if table.column == "domain"]
        self.domain = [table.name for table in domain]
        self.others = [name for name in inputs.names if name not in self.domain]
        domain_width = sum(table.width for table in domain)
        others_width = inputs.width - domain_width
        self.first = Pruner(domain_width, others_width, options) if others_width else None
        self.pruners = nn.ModuleList(Pruner(domain_width, width, options) for width in settings.hidden)
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise((inputs.width, *settings.hidden)))
        self.dropouts = nn.ModuleList(Dropout(settings.dropout) for _ in settings.hidden)
        self.out = nn.Linear((inputs.width, *settings.hidden)[-1], 1)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        h_BD = domain_BD = join_fields(fields, self.domain)
        if self.first is not None:
            pruned_BD = self.first(domain_BD, join_fields(fields, self.others))
            h_BD = join_fields({OWN: domain_BD, OTHERS: pruned_BD}, (OWN, OTHERS))
        for layer, pruner, dropout in zip(self.hidden, self.pruners, self.dropouts, strict=True):
            h_BD = dropout(pruner(domain_BD, relu(layer(h_BD))))
        logits_B1: Tensor = self.out(h_BD)
        return logits_B1.squeeze(1)


class Pruner(nn.Module):
    """h * pi(domain, h), the fused weighting factors of AdaSparse.

    Args:
        domain_width: width of the domain's embedding.
        width: H, the number of scaled units.
        options: beta, epsilon and alpha.
    """

    def __init__(self, domain_width: int, width: int, options: AdaSparseOptions) -> None:
        super().__init__()
        self.options = options
        self.from_domain = nn.Linear(domain_width, width)
        self.from_units = nn.Linear(width, width, bias=False)

    def forward(self, domain_BD: Tensor, h_BH: Tensor) -> Tensor:
        """Scaled units [B, H], some of them zero."""
        options = self.options
        v_BH = self.from_domain(domain_BD) + self.from_units(h_BH)
        factor_BH = options.scale * (options.temperature * v_BH).sigmoid()
        return h_BH * torch.where(factor_BH > options.threshold, factor_BH, torch.zeros_like(factor_BH))
