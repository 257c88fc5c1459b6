"""Settings of the mixed-effects part of a model."""

from typing import Literal

from mamdr_core.config.settings import check_limits, settings

Effect = Literal["user", "item", "user_in_domain"]


@settings
class MixedSettings:
    """Specific parameters w_i of every domain and random effects of ids, by empirical Bayes (docs/mixed.md)."""

    products: bool = True
    """phi(x) includes products of the user's and the item's fixed vectors, each projected on learned directions."""
    factors: int = 16
    """Number of these products, at most the width of the vectors."""
    effects: tuple[Effect, ...] = ("user", "item", "user_in_domain")
    """Random effects: one value for each user, item, and user within a domain."""
    sweeps: int = 20
    """Largest number of EM sweeps; EM ends earlier once it has converged."""
    tolerance: float = 0.01
    """EM has converged when no standard deviation of a prior, in logits, changes by more than this in a sweep, and the
    mean change of the rows' logits is at most .01."""
    prior: Literal["learned", "parent"] = "learned"
    """Prior of a run with train.warm_start. learned: EM starts from the parent's values, and priors are learned from
    the rows; parent: the parent's posterior is the prior, for training rows that the parent was not trained on."""
    variance: float = 0.05
    """Initial variance of every effect and of every entry of w_i."""
    alone_above: float = 0.005
    """In a run that does not inherit a mixed model: if the network adds more than this to the mixed model's mean
    validation AUC, it is also trained without the mixed model, and the better of the two is kept; 1: never."""

    def __post_init__(self) -> None:
        if len(set(self.effects)) < len(self.effects):
            raise ValueError(f"mixed.effects must differ, got {list(self.effects)}")
        check_limits(self, "mixed", "sweeps", "factors", least=1)
        check_limits(self, "mixed", "alone_above", least=0)
        for name in ("tolerance", "variance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"mixed.{name} must be > 0, got {getattr(self, name)}")
