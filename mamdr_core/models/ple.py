"""PLE: progressive layered extraction, a stack of CGC levels (Tang et al. 2020, section 4.2).

Shape suffixes: B rows, D width of a level's input.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from mamdr_core.config.models import ModelSettings
from mamdr_core.models.cgc import ExtractionLevel
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import DomainPerceptron
from mamdr_core.models.tables import Inputs


class PLE(nn.Module):
    """Levels of extraction, then a tower of each domain (Tang et al. 2020, Eq. 5 to 7).

    With one level, the MAMDR paper's setting and our default, it is CGC with other sizes. With more levels, the shared
    gates mix fewer experts than in the paper of PLE, see `ExtractionLevel`.

    Args:
        inputs: the fields.
        settings: `ple` sizes and `dropout`.
    """

    mixes_domains = True

    def __init__(self, inputs: Inputs, settings: ModelSettings) -> None:
        super().__init__()
        sizes, dropout = settings.ple, settings.dropout
        self.names = inputs.names
        widths = [inputs.width] + [sizes.expert_hidden[-1]] * sizes.levels
        self.levels = nn.ModuleList(
            ExtractionLevel(f"level_{n}", inputs, width, sizes, dropout, last=n == sizes.levels - 1)
            for n, width in enumerate(widths[:-1])
        )
        self.tower = DomainPerceptron("tower", inputs, widths[-1], sizes.tower, 1, dropout)

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Logits [B] of fields [B, D]."""
        own_BD = shared_BD = join_fields(fields, self.names)
        for level in self.levels:
            own_BD, shared_BD = level(fields, own_BD, shared_BD)
        logits_B1: Tensor = self.tower(fields, own_BD)
        return logits_B1.squeeze(1)
