"""A network trained on a mixed model, and without it where that may be better (docs/mixed.md)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.parameters import Shared
from mamdr_core.learning.learner import Learner
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.stateful import State
from mamdr_core.training.early_stop import EarlyStop


@dataclass
class NetworkOnMixed:
    """Puts a learner's network on a mixed model, and takes it off.

    Args:
        mixed: the mixed model.
        learner: has theta_S and the training rows.
        initial: makes theta_S as it was before training.
        alone_above: see `MixedSettings`.

    Attributes:
        auc: mean validation AUC of the mixed model alone.
        best: theta_S of the best validation on the mixed model, once the network is trained alone.
    """

    mixed: MixedModel
    learner: Learner
    initial: Callable[[], Shared]
    alone_above: float
    auc: float = field(init=False, default=float("nan"))
    best: EarlyStop = field(init=False)

    def __post_init__(self) -> None:
        """Make a place for the best."""
        self.best = EarlyStop(1, self.learner)

    @property
    def is_off(self) -> bool:
        """Whether the mixed model is off: the parent's network did better without it."""
        return self.mixed.is_off

    def put_on(self, val: Columns) -> Columns:
        """Have the network learn what the mixed model leaves of training rows left out; returns `val` on the model."""
        self.learner.train = self.mixed.under_left_out(self.learner.train)
        return self.mixed.under(val)

    def adds_much(self, on_mixed: EarlyStop) -> bool:
        """Whether the network has added so much to the mixed model that it may do better without it.

        Args:
            on_mixed: has the best theta_S on the mixed model, which is kept if so.
        """
        if not on_mixed.best > self.auc + self.alone_above:
            return False
        self.best = on_mixed
        return True

    def take_off(self, val: Columns) -> Columns:
        """Put the network back to its start, without the mixed model; returns `val` without it."""
        self.learner.shared = self.initial()
        self.learner.train = replace(self.learner.train, base_logits=None)
        return replace(val, base_logits=None)

    def keep_better(self, alone: EarlyStop) -> bool:
        """Keep the network of the better validation; returns whether it is the one alone."""
        if alone.best > self.best.best:
            self.mixed.turn_off()
            return True
        self.best.restore_best()
        return False

    def state_dict(self) -> State:
        """The mixed model's, its AUC, and the best theta_S on it while the network is trained alone."""
        parts = State.join({"model": self.mixed.state_dict(), "best": self.best.state_dict()})
        return replace(parts, same={"auc": torch.tensor(self.auc, dtype=torch.float64), **parts.same})

    def load_state_dict(self, state: State) -> None:
        """Take over a state.

        Raises:
            MamdrError: it is of another model.
        """
        self.mixed.load_state_dict(state.part("model"))
        self.best.load_state_dict(state.part("best"))
        self.auc = float(state.tensor(state.same, "auc", torch.tensor(0.0, dtype=torch.float64)))
