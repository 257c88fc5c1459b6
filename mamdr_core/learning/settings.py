"""Settings of the learning methods."""

from dataclasses import dataclass, field
from typing import Any, Literal

from mamdr_core.engine.settings import InnerSettings, OuterSettings
from mamdr_core.settings import settings


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
    """What theta_i covers beyond dense parameters and the domain's embedding: touched = embedding rows of T^i's ids."""
    start: Literal["zeros", "random"] = "zeros"
    """theta_i at the start: zeros (Eq. 5), or a fresh random initialisation (the released reference code)."""
    include_target: bool = False
    """Also draw the target itself as a support domain (the released reference code)."""
    support_rows: int = 1024
    """Rows sampled of each support domain for the other domains, drawn anew every epoch."""
    support_ratio: float = 0.25
    """Largest number of rows of a support visit, as a multiple of the target visit's rows, so that large domains do not
    dominate small ones."""
    schedule: Literal["rounds", "settled"] = "settled"
    """rounds: alongside theta_S from the first round on (Alg. 3); settled: once theta_S is trained, with the best
    theta_S fixed, by passes over all of T^i until the mean validation AUC stops rising."""
    every: int = 1
    """rounds: rounds between two passes of DR; a pass visits the rows dealt to the domain since the last one."""
    epochs: int = 20
    """settled: largest number of passes over T^i."""
    patience: int = 3
    """settled: stop after this number of passes in a row without a better mean validation AUC."""
    batch_size: int = 64
    """Largest number of rows of one of DR's inner steps, unless `most_steps` makes them larger; 0: train.batch_size."""
    most_steps: int = 64
    """Inner steps of a target's visit from which steps grow: their rows are doubled, for the target's supports too,
    until there are no more steps than this or steps have train.batch_size rows; their rate grows with the square root
    of their rows (sgd: with their rows). 0: steps do not grow."""
    target_rows: int = 0
    """Rows of a target's visit at most: of a larger domain, each of the k trajectories of a pass visits another part.
    0: no bound."""

    def __post_init__(self) -> None:
        zero_or_more = ("k", "batch_size", "most_steps", "target_rows", "gamma", "lr", "support_ratio")
        one_or_more = ("support_rows", "every", "epochs", "patience")
        for name, least in {**dict.fromkeys(zero_or_more, 0), **dict.fromkeys(one_or_more, 1)}.items():
            if getattr(self, name) < least:
                raise ValueError(f"dr.{name} must be >= {least}, got {getattr(self, name)}")
        if self.schedule == "settled" and self.every > 1:
            raise ValueError(f"dr.every is for dr.schedule rounds, and it is settled: got {self.every}")


@dataclass(frozen=True)
class LearningSettings:
    """All settings that a learning method uses; `Method.settle` completes them for one method.

    Attributes:
        inner: theta_S's inner loop.
        outer: the outer update.
        dr: Domain Regularization.
        meta_lr: learning rate of the virtual step of MAML and MLDG.
        options: a method's own settings: a mapping as configured; once settled, what the method declares.
    """

    inner: InnerSettings = field(default_factory=InnerSettings)
    outer: OuterSettings = field(default_factory=OuterSettings)
    dr: DRSettings = field(default_factory=DRSettings)
    meta_lr: float = 0.01
    options: Any = field(default_factory=dict)

    @property
    def alpha(self) -> float:
        """Learning rate of theta_S's inner steps."""
        assert self.inner.lr is not None, "Method.settle sets the rate"
        return self.inner.lr
