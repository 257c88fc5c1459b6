"""What an inner step does beyond following the gradient: clipping, decay, and an optimizer of embedding rows.

Tables of weights that a structure declares, such as each domain's own, are parts of the network: their rows move and
decay as dense weights do.
"""

from dataclasses import dataclass

from torch import Tensor

from mamdr_core.config.engine import InnerSettings
from mamdr_core.models.tables import Table

COPIES = {"sgd": 1, "adagrad": 2, "adam": 3}
"""Numbers that an optimizer keeps of a parameter, itself included."""


@dataclass(frozen=True)
class RowRule:
    """How the rows of a table move.

    Attributes:
        optimizer: sgd, adam (lazy), or adagrad (row-wise).
        factor: of the learning rate.
        l2: of the rows that a step touches, lambda / 2 times their squares are added to the loss.
        decay: decoupled weight decay.
    """

    optimizer: str = "sgd"
    factor: float = 1.0
    l2: float = 0.0
    decay: float = 0.0

    @property
    def copies(self) -> int:
        """Numbers that are kept of a parameter, itself included."""
        return COPIES[self.optimizer]


@dataclass(frozen=True)
class StepOptions:
    """What every inner step of an engine does; the defaults follow the gradient and nothing else.

    Attributes:
        clip_norm: largest norm of a trajectory's gradient in a step; 0: none.
        weight_decay, embedding_l2: see `InnerSettings`.
        sparse_optimizer: of embedding rows; None: that of the dense weights.
        sparse_factor: of the dense weights' learning rate, for embedding rows.
    """

    clip_norm: float = 0.0
    weight_decay: float = 0.0
    embedding_l2: float = 0.0
    sparse_optimizer: str | None = None
    sparse_factor: float = 1.0

    @classmethod
    def of(cls, inner: InnerSettings) -> "StepOptions":
        """The options of settings whose rate is settled."""
        factor = 1.0
        if inner.sparse_lr is not None:
            assert inner.lr, "InnerSettings and Method.settle see to the rate"
            factor = inner.sparse_lr / inner.lr
        return cls(inner.clip_norm, inner.weight_decay, inner.embedding_l2, inner.sparse_optimizer, factor)

    def rule(self, table: Table, optimizer: str) -> RowRule:
        """How a table's rows move where the dense weights move by `optimizer`."""
        if not table.feature:
            return RowRule(optimizer, decay=self.weight_decay)
        return RowRule(self.sparse_optimizer or optimizer, self.sparse_factor, self.embedding_l2)

    def clip_factor(self, squares: Tensor) -> Tensor:
        """What gradients of these sums of squares are multiplied by, as `torch.nn.utils.clip_grad_norm_` does."""
        return (self.clip_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)


FOLLOW_GRADIENT = StepOptions()
