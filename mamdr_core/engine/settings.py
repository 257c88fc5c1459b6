"""Settings of the optimizers, and of what is measured."""

from typing import Literal

from mamdr_core.settings import settings


@settings
class InnerSettings:
    """The optimizer of inner loops."""

    optimizer: Literal["sgd", "adam"] = "adam"
    """sgd, or adam (lazy on embedding rows: only touched rows move)."""
    lr: float | None = None
    """Learning rate alpha; null: the learning method's own."""
    state: Literal["carried", "fresh"] = "carried"
    """Adam's moments of theta_S: carried from one inner loop to the next, or fresh in each."""

    def __post_init__(self) -> None:
        """Check the rate."""
        if self.lr is not None and self.lr < 0:
            raise ValueError(f"inner.lr must be >= 0, got {self.lr}")


@settings
class OuterSettings:
    """The optimizer that applies an inner loop's change to theta_S."""

    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """sgd is Eq. 4; nesterov and adam treat -(theta~ - theta) as the gradient."""
    beta: float = 2e-3
    """Learning rate beta of the outer update: about 2e-3 with adam, .1 to 1 with sgd and nesterov."""
    momentum: float = 0.9
    """nesterov: momentum; adam: beta1."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.beta < 0 or not 0 <= self.momentum < 1:
            raise ValueError(f"need outer.beta >= 0 and momentum in [0, 1), got {self.beta} and {self.momentum}")


@settings
class MetricsSettings:
    """What is measured after training, by evaluate and by the gate (docs/metrics.md)."""

    group: str = "user"
    """Whose rows of a domain are ordered against one another in GAUC, NDCG and hit rate: user, or a categorical
    feature, such as one that names the request or the session."""
    cutoffs: tuple[int, ...] = (5, 10)
    """k of NDCG@k and hit rate@k."""
    bins: int = 10
    """Bins of equal count of the calibration error."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if any(not 1 <= k <= 1000 for k in self.cutoffs) or list(self.cutoffs) != sorted(set(self.cutoffs)):
            raise ValueError(f"metrics.cutoffs must differ, ascend and be within [1, 1000], got {list(self.cutoffs)}")
        if not 1 <= self.bins <= 100:
            raise ValueError(f"metrics.bins must be within [1, 100], got {self.bins}")
