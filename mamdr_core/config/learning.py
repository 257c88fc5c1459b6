"""Settings of the learning methods."""

from dataclasses import dataclass, field
from typing import Any, Literal

from mamdr_core.config.engine import InnerSettings, OuterSettings
from mamdr_core.config.settings import check_limits, settings


@settings
class DRSettings:
    """Domain Regularization (Alg. 2)."""

    k: int = 3
    """Support domains sampled for each target; 0: finetune on the target alone."""
    gamma: float = 0.1
    """Learning rate gamma of Eq. 9."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Optimizer of DR's inner steps; its state is fresh in every trajectory."""
    lr: float = 3e-3
    """Learning rate alpha of DR's inner steps."""
    rows: Literal["none", "touched"] = "none"
    """Embedding rows that theta_i covers, in addition to dense parameters and the domain's embedding: none; touched:
    those of the ids in T^i."""
    start: Literal["zeros", "random"] = "zeros"
    """Initial values of theta_i: zeros (Eq. 5), or a random initialisation (the released reference code)."""
    include_target: bool = False
    """Also draw the target itself as a support domain (the released reference code)."""
    support_rows: int = 1024
    """Largest number of rows in the sample of a support domain, which is drawn again every epoch."""
    support_ratio: float = 0.25
    """Largest number of rows of a support visit, as a multiple of the target visit's rows, so that large domains do not
    dominate small ones."""
    schedule: Literal["rounds", "settled"] = "settled"
    """rounds: together with theta_S from the first round (Alg. 3); settled: once theta_S is trained, with the best
    theta_S fixed, by passes over all of T^i until the mean validation AUC no longer increases."""
    every: int = 1
    """With schedule rounds: number of rounds from one pass of DR to the next. A pass visits the rows of the domain's
    slices since the last pass."""
    epochs: int = 20
    """With schedule settled: largest number of passes over T^i."""
    patience: int = 3
    """With schedule settled: stop after this number of consecutive passes without a better mean validation AUC."""
    batch_size: int = 64
    """Largest number of rows of an inner step of DR, which `most_steps` can increase; 0: train.batch_size."""
    most_steps: int = 64
    """Largest number of inner steps of a target's visit before steps grow. The rows of a step, also for the target's
    supports, are doubled until there are no more steps than this, or until steps have train.batch_size rows. The
    learning rate grows with the square root of a step's rows (sgd: with the rows). 0: steps do not grow."""
    target_rows: int = 0
    """Largest number of rows of a target's visit. In a larger domain, each of the k trajectories of a pass visits
    another part of the rows. 0: no limit."""

    def __post_init__(self) -> None:
        sizes = ("k", "batch_size", "most_steps", "target_rows")
        check_limits(self, "dr", *sizes, "gamma", "lr", "support_ratio", least=0)
        check_limits(self, "dr", "support_rows", "every", "epochs", "patience", least=1)
        if self.schedule == "settled" and self.every > 1:
            raise ValueError(f"dr.every > 1 needs dr.schedule rounds, and it is settled: got {self.every}")


@dataclass(frozen=True)
class LearningSettings:
    """All settings of a learning method; `Method.settle` completes them for one method.

    Attributes:
        inner: settings of theta_S's inner loop.
        outer: settings of the outer update.
        dr: settings of Domain Regularization.
        meta_lr: learning rate of the virtual step of MAML and MLDG.
        options: the configured mapping `train.options`; after `Method.settle`, an instance of `Method.options`.
    """

    inner: InnerSettings = field(default_factory=InnerSettings)
    outer: OuterSettings = field(default_factory=OuterSettings)
    dr: DRSettings = field(default_factory=DRSettings)
    meta_lr: float = 0.01
    options: Any = field(default_factory=dict)

    @property
    def alpha(self) -> float:
        """Learning rate of theta_S's inner steps."""
        assert self.inner.lr is not None, "Method.settle must be called first"
        return self.inner.lr
