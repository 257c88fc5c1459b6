"""Settings of the gate and of promotion."""

from mamdr_core.settings import settings


@settings
class GateSettings:
    """What a run, the challenger, must be like to be promoted.

    A drop against the champion counts where it is greater than its limit and the interval of the difference lies wholly
    below zero: what noise explains stops nothing.
    """

    run_id: str = ""
    """The challenger; empty: the newest run that ended well."""
    max_auc_drop: float = 0.005
    """How far its mean AUC over domains may lie below the champion's, on the same rows."""
    max_weighted_auc_drop: float = 0.005
    """Likewise its mean AUC weighted by rows."""
    max_gauc_drop: float | None = None
    """Likewise its AUC by user (`metrics.group`) weighted by rows; null: it is measured, and stops nothing."""
    domain_drop: float = 0.02
    """A domain whose AUC drops by more than this counts as worse."""
    domain_clicks: int = 20
    """A domain with fewer clicks, or fewer rows without, is too small to be judged by itself."""
    max_worse_share: float = 0.2
    """Share of the judged domains that may be worse; of few domains also as many as noise explains."""
    confidence: float = 0.95
    """Of the two-sided intervals; a drop's interval lies below zero by chance in half of the rest at most."""
    least_auc: float = 0.52
    """Least mean AUC over domains, with and without a champion."""
    max_calibration: float = 1.5
    """The predicted probabilities may sum to so many times the clicks at most, and the clicks to so many times them."""
    least_day_lead: float = 0.5
    """Share of its lead over chance (AUC - 0.5) on earlier days that the challenger, or the champion, must keep on the
    newest day's rows: where neither does, the day's labels look wrong. 0: not checked."""
    max_unseen: float = 0.5
    """Share of the newest day's rows whose user, or whose item, the champion may not know: more looks like new ids for
    old users. 1: not checked."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("max_auc_drop", "max_weighted_auc_drop", "domain_drop", "least_auc", "least_day_lead"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"gate.{name} must be in [0, 1], got {getattr(self, name)}")
        if self.max_gauc_drop is not None and not 0 <= self.max_gauc_drop <= 1:
            raise ValueError(f"gate.max_gauc_drop must be in [0, 1], got {self.max_gauc_drop}")
        for name in ("max_worse_share", "max_unseen"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"gate.{name} is a share in [0, 1], got {getattr(self, name)}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"gate.confidence must be between 0 and 1, got {self.confidence}")
        if self.max_calibration < 1 or self.domain_clicks < 2:
            raise ValueError(
                f"gate.max_calibration must be >= 1 and gate.domain_clicks >= 2, got {self.max_calibration} and "
                f"{self.domain_clicks}"
            )


@settings
class PromoteSettings:
    """Which run is to serve."""

    run_id: str = ""
    """The run; empty: the newest that ended well."""
    force: bool = False
    """Promote it whatever the gate decided, also where a newer day serves or it has been rolled back."""
    rollback: str = ""
    """Go back instead: to the run of this id, which has served before, or to the `previous` one (--rollback)."""
