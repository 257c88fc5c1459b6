"""What an inner step does in addition to following the gradient: clipping, decay, an optimizer for embedding rows.

Tables of weights that a structure declares, such as weights per domain, are parts of the network: their rows are
updated and decay like dense weights.
"""

from dataclasses import dataclass

from torch import Tensor

from mamdr_core.config.engine import InnerSettings
from mamdr_core.models.tables import Table

COPIES = {"sgd": 1, "adagrad": 2, "adam": 3}
"""Numbers that are stored per parameter of a stack, by optimizer: the parameter and its state."""


@dataclass(frozen=True)
class RowRule:
    """How steps update the rows of a table.

    Attributes:
        optimizer: sgd, adam (lazy), or adagrad (row-wise).
        factor: multiplies the learning rate.
        l2: lambda; lambda / 2 times the squares of the rows that a step touches is added to its loss.
        decay: decoupled weight decay.
    """

    optimizer: str = "sgd"
    factor: float = 1.0
    l2: float = 0.0
    decay: float = 0.0

    @property
    def copies(self) -> int:
        """Numbers that are stored per parameter, see `COPIES`."""
        return COPIES[self.optimizer]


@dataclass(frozen=True)
class StepOptions:
    """What every inner step of an engine does; by default it only follows the gradient.

    Attributes:
        clip_norm: maximum norm of a trajectory's gradient in a step; 0: unlimited.
        weight_decay, embedding_l2: see `InnerSettings`.
        sparse_optimizer: optimizer of embedding rows; None: that of the dense weights.
        sparse_factor: learning rate of embedding rows over that of the dense weights.
    """

    clip_norm: float = 0.0
    weight_decay: float = 0.0
    embedding_l2: float = 0.0
    sparse_optimizer: str | None = None
    sparse_factor: float = 1.0

    @classmethod
    def of(cls, inner: InnerSettings) -> "StepOptions":
        """The options of settings whose learning rate is set."""
        factor = 1.0
        if inner.sparse_lr is not None:
            assert inner.lr, "set by Method.settle and checked by InnerSettings"
            factor = inner.sparse_lr / inner.lr
        return cls(inner.clip_norm, inner.weight_decay, inner.embedding_l2, inner.sparse_optimizer, factor)

    def rule(self, table: Table, optimizer: str) -> RowRule:
        """The rule of a table if dense weights are updated by `optimizer`."""
        if not table.feature:
            return RowRule(optimizer, decay=self.weight_decay)
        return RowRule(self.sparse_optimizer or optimizer, self.sparse_factor, self.embedding_l2)

    def clip_factor(self, squares: Tensor) -> Tensor:
        """Factors for gradients with these sums of squares, as in `torch.nn.utils.clip_grad_norm_`."""
        return (self.clip_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)


FOLLOW_GRADIENT = StepOptions()
