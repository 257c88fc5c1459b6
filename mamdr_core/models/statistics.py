"""Normalisation by the mean and variance of each domain's rows, which a structure reads like weights.

No step changes these statistics. A structure that has a `DomainNormalization` also has a method
`observe(fields) -> {name of the layer: x [B, D]}`, which computes the layer's input from the features. The run calls it
on the rows of each domain, at the domain's theta_S + theta_i (`mamdr_core.engine.statistics`), and stores the
statistics in tables of theta_S.

Shape suffixes: B rows, G domains of the batch (1 if the batch is of one domain), D width of the input.
"""

from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from mamdr_core.models.groups import by_row, sum_by_domain, to_rows
from mamdr_core.models.layers import EPSILON, TableLayer
from mamdr_core.models.tables import Inputs, Table

ROW_WEIGHT = "row.weight"
"""Field of a training batch: the weight of each row, up to a common factor, [B]; 0 for padding."""
FEW_ROWS = 16
"""Number of rows from which a domain has only its own statistics. With fewer, other statistics count for the missing
rows: in a batch the measured ones of the domain, in a measurement those of all domains."""


class DomainNormalization(TableLayer):
    """(x - mean) / sqrt(variance + epsilon), by the statistics of the row's domain (Sheng et al. 2021, Eq. 4 and 5).

    In a training batch, mean and variance are those of the domain's rows in the batch, weighted by their sample
    weights. If the effective number of rows m = (sum w)^2 / sum w^2 is below `FEW_ROWS`, they are combined with
    `FEW_ROWS` - m rows that have the measured mean and variance. Everywhere else the measured mean and variance are
    used.

    Args:
        name: name of the layer within the structure.
        inputs: the fields.
        width: width of the input D.

    Attributes:
        tables: by domain, the weight of its measured rows (0 without rows), the mean and the variance. Row 0, for
            unknown domains, and domains without rows have the mean and variance of the rows of all domains; domains
            with fewer than `FEW_ROWS` rows are combined with them.
    """

    def __init__(self, name: str, inputs: Inputs, width: int) -> None:
        super().__init__()
        self.name, self.width = name, width
        self.tables = (
            _measured(f"{name}.count", inputs, 1),
            _measured(f"{name}.mean", inputs, width),
            _measured(f"{name}.variance", inputs, width),
        )

    def forward(self, fields: Mapping[str, Tensor], x_BD: Tensor) -> Tensor:
        """Normalised inputs [B, D], with the statistics of the domain or the groups in `fields`."""
        _, mean, variance = (table.name for table in self.tables)
        if self.training and ROW_WEIGHT in fields:
            wide_BD = x_BD.float() if x_BD.dtype == torch.bfloat16 else x_BD  # sums in bfloat16 are inaccurate
            mean_GD, variance_GD = _of_batch(fields, wide_BD, fields[mean], fields[variance])
            centred_BD = wide_BD - to_rows(fields, mean_GD)
            return (centred_BD * to_rows(fields, (variance_GD + EPSILON).rsqrt())).to(x_BD.dtype)
        return (x_BD - by_row(fields, mean)) * (by_row(fields, variance) + EPSILON).rsqrt()


class Observes(Protocol):
    """A structure whose statistics can be measured."""

    def observe(self, fields: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The input of each `DomainNormalization` by the layer's name, [B, D].

        Args:
            fields: the features of some rows.
        """


def observe(structure: nn.Module, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The input of each `DomainNormalization` of a structure; see `Observes`."""
    return dict(cast("Observes", structure).observe(fields))


def statistics_layers(module: nn.Module) -> list[DomainNormalization]:
    """The layers of a structure whose statistics have to be measured."""
    return [layer for layer in module.modules() if isinstance(layer, DomainNormalization)]


def _of_batch(
    fields: Mapping[str, Tensor], x_BD: Tensor, measured_mean_GD: Tensor, measured_variance_GD: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of each domain of a training batch, [G, D]; see `DomainNormalization`."""
    tiny = torch.finfo(x_BD.dtype).tiny
    weight_B1 = fields[ROW_WEIGHT].to(x_BD.dtype).unsqueeze(1)
    share_B1 = weight_B1 / to_rows(fields, sum_by_domain(fields, weight_B1).clamp_min(tiny))
    mean_GD = sum_by_domain(fields, share_B1 * x_BD)
    variance_GD = sum_by_domain(fields, share_B1 * (x_BD - to_rows(fields, mean_GD)).square())
    # 0 if all weights are 0, so that the domain has its measured statistics.
    rows_G1 = sum_by_domain(fields, share_B1).square() / sum_by_domain(fields, share_B1.square()).clamp_min(tiny)
    own_G1 = (rows_G1 / FEW_ROWS).clamp(max=1.0)
    between_GD = own_G1 * (1 - own_G1) * (mean_GD - measured_mean_GD).square()
    return (
        own_G1 * mean_GD + (1 - own_G1) * measured_mean_GD,
        own_G1 * variance_GD + (1 - own_G1) * measured_variance_GD + between_GD,
    )


def _measured(name: str, inputs: Inputs, width: int) -> Table:
    return Table(name, "domain", inputs.domain_rows, width, feature=False, per_domain=True, measured=True, std=0.0)
