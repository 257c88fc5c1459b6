"""Settings of the gate and of promotion."""

from mamdr_core.config.settings import check_limits, settings


@settings
class GateSettings:
    """Limits that a run, the challenger, must satisfy to be promoted.

    A drop against the champion violates its limit only if it is also significant: the confidence interval of the
    difference must be below zero.
    """

    run_id: str = ""
    """The challenger; empty: the newest successful run."""
    max_auc_drop: float = 0.005
    """Maximum drop of the mean AUC over domains against the champion, on the same rows."""
    max_weighted_auc_drop: float = 0.005
    """Maximum drop of the AUC weighted by rows."""
    max_gauc_drop: float | None = None
    """Maximum drop of GAUC, the AUC by user (`metrics.group`) weighted by rows; null: measured, but without a limit."""
    domain_drop: float = 0.02
    """A domain whose AUC drops by more than this counts as worse."""
    domain_clicks: int = 20
    """Minimum number of clicks, and of other rows, of a domain that is judged individually."""
    max_worse_share: float = 0.2
    """Maximum share of the judged domains that may be worse; with few domains, as many as chance explains."""
    confidence: float = 0.95
    """Level of the two-sided confidence intervals: by chance at most (1 - confidence) / 2 of them are below zero."""
    least_auc: float = 0.52
    """Minimum mean AUC over domains, with and without a champion."""
    max_calibration: float = 1.5
    """Maximum ratio between the sum of the predicted probabilities and the clicks, in either direction."""
    least_day_lead: float = 0.5
    """Share of the lead over chance (AUC - 0.5) of earlier days that the challenger or the champion must keep on the
    newest day; if neither does, the labels of that day look wrong. 0: not checked."""
    max_unseen: float = 0.5
    """Maximum share of rows of the newest day with a user, or an item, unknown to the champion; a larger share suggests
    that known users were given new ids. 1: not checked."""

    def __post_init__(self) -> None:
        drops = ("max_auc_drop", "max_weighted_auc_drop", "max_gauc_drop", "domain_drop")
        shares = ("max_worse_share", "max_unseen", "least_day_lead")
        check_limits(self, "gate", *drops, *shares, "least_auc", least=0, most=1)
        if not 0 < self.confidence < 1:
            raise ValueError(f"gate.confidence must be between 0 and 1, got {self.confidence}")
        if self.max_calibration < 1 or self.domain_clicks < 2:
            raise ValueError(
                f"gate.max_calibration must be >= 1 and gate.domain_clicks >= 2, got {self.max_calibration} and "
                f"{self.domain_clicks}"
            )


@settings
class PromoteSettings:
    """Which run is promoted."""

    run_id: str = ""
    """The run; empty: the newest successful run."""
    force: bool = False
    """Promote it regardless of the gate, even if a newer day serves or the run has been rolled back."""
    rollback: str = ""
    """Roll back instead: the id of a run that has served before, or `previous` (--rollback)."""
