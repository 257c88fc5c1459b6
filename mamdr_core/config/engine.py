"""Settings of the optimizers, and of what is measured."""

from typing import Literal

from mamdr_core.config.settings import check_limits, settings


@settings
class InnerSettings:
    """The optimizer of inner loops."""

    optimizer: Literal["sgd", "adam"] = "adam"
    """sgd, or adam (lazy on embedding rows: only touched rows move)."""
    lr: float | None = None
    """Learning rate alpha; null: the learning method's own."""
    state: Literal["carried", "fresh"] = "carried"
    """Adam's moments of theta_S: carried from one inner loop to the next, or fresh in each."""
    clip_norm: float = 0.0
    """Maximum norm of the gradient of a step, over dense weights and touched embedding rows together, as in torch's
    clip_grad_norm_; 0: no limit. Also applies to DR's steps."""
    weight_decay: float = 0.0
    """Decoupled weight decay of all dense weights, biases included, as in torch's AdamW. Also applies to DR's steps,
    where it moves theta_S + theta_i towards zero."""
    embedding_l2: float = 0.0
    """L2 regularisation of embedding rows: half of it, times the squares of the rows that a step touches, is added to
    the step's loss. Also applies to DR's steps."""
    sparse_optimizer: Literal["sgd", "adam", "adagrad"] | None = None
    """Optimizer of embedding rows: sgd, adam (lazy), or adagrad (row-wise: one sum of mean squares per row, as
    in FBGEMM); null: that of the dense weights. Also applies to DR's steps."""
    sparse_lr: float | None = None
    """Learning rate of embedding rows; null: that of the dense weights. With lr_schedule, and in DR,
    embedding rows keep the ratio of sparse_lr to inner.lr."""

    def __post_init__(self) -> None:
        check_limits(self, "inner", "lr", "sparse_lr", "clip_norm", "weight_decay", "embedding_l2", least=0)
        if self.lr == 0 and self.sparse_lr is not None:
            raise ValueError(
                f"inner.sparse_lr needs inner.lr > 0, whose changes it follows: got {self.sparse_lr} and 0"
            )


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
        if any(not 1 <= k <= 1000 for k in self.cutoffs) or list(self.cutoffs) != sorted(set(self.cutoffs)):
            raise ValueError(f"metrics.cutoffs must differ, ascend and be within [1, 1000], got {list(self.cutoffs)}")
        if not 1 <= self.bins <= 100:
            raise ValueError(f"metrics.bins must be within [1, 100], got {self.bins}")
