"""Training curve of a run: the result of each validation, with the rows and seconds spent so far."""

import math
from dataclasses import dataclass

from mamdr_core.engine.metrics import DomainMetrics


@dataclass(frozen=True)
class Validation:
    """One validation of a run.

    Attributes:
        phase: stage of the run: shared (rounds of theta_S, and of theta_i if both are trained in the same rounds), or
            specific (passes of DR afterwards).
        round: number of rounds or passes of the stage before this validation. The count continues if the network is
            trained again without a mixed model.
        epoch: epoch of the stage, from 1, counted in the same way; 0 before the first round.
        rows: rows that all ranks have descended on.
        seconds: since the start of rank 0, including earlier attempts up to the checkpoint that was resumed from.
        val_auc: mean over domains; None if no domain has an AUC.
        weighted_val_auc: mean weighted by rows.
        best: whether these parameters were kept: the AUC is the best of the stage so far, and exceeds the best AUC of
            the network on a mixed model if the network is now trained without it.
    """

    phase: str
    round: int
    epoch: int
    rows: int
    seconds: float
    val_auc: float | None
    weighted_val_auc: float | None
    best: bool


def aucs_of(measured: DomainMetrics) -> dict[str, float | None]:
    """Mean and weighted AUC of a validation, by field of `Validation`."""
    figures = {"val_auc": measured.mean_auc(), "weighted_val_auc": measured.weighted_auc()}
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
