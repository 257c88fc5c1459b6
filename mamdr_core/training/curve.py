"""A run's curve: what each validation found, and what the run had spent by then."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from mamdr_core.engine.metrics import DomainMetrics


@dataclass(frozen=True)
class Validation:
    """One validation of a run.

    Attributes:
        phase: its stage: shared (rounds of theta_S, and of theta_i where it moves alongside), or specific (passes of DR
            after it).
        round: rounds, or passes, of the stage before it; where the network is trained again without a mixed model, the
            count continues.
        epoch: begun of the stage, from 1, counted in the same way; 0 before the first round.
        rows: that all ranks have descended on.
        seconds: since rank 0 began; attempts before count up to the checkpoint that was resumed from.
        val_auc: mean over domains; None where no domain has one.
        weighted_val_auc: the same weighted by rows.
        best: whether it is the best of its stage so far, and better than one that came before on a mixed model, so that
            these parameters were kept.
    """

    phase: str
    round: int
    epoch: int
    rows: int
    seconds: float
    val_auc: float | None
    weighted_val_auc: float | None
    best: bool

    def plain(self) -> dict[str, Any]:
        """The values as JSON has them; `Validation(**plain)` reads them back."""
        return asdict(self)


def aucs_of(measured: DomainMetrics) -> dict[str, float | None]:
    """The mean and the weighted AUC of a validation by their names in `Validation`."""
    figures = {"val_auc": measured.mean_auc(), "weighted_val_auc": measured.weighted_auc()}
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
