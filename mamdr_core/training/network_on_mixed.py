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
    """Trains a learner's network on a mixed model, and without it.

    Args:
        mixed: the mixed model.
        learner: has theta_S and the training rows.
        initial: makes theta_S with its values before training.
        alone_above: see `MixedSettings`.

    Attributes:
        auc: mean validation AUC of the mixed model alone.
        best: the best theta_S on the mixed model, once the network is trained alone.
        is_kept: whether the mixed model is part of the result.
    """

    mixed: MixedModel
    learner: Learner
    initial: Callable[[], Shared]
    alone_above: float
    auc: float = field(init=False, default=float("nan"))
    best: EarlyStop = field(init=False)
    is_kept: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        """Make a place for the best."""
        self.best = EarlyStop(1, self.learner)

    def put_on(self, val: Columns) -> Columns:
        """Have the network learn what the mixed model leaves of training rows left out; returns `val` on the model."""
        self.learner.train = self.mixed.with_left_out_logits(self.learner.train)
        return self.mixed.with_base_logits(val)

    def adds_much(self, on_mixed: EarlyStop) -> bool:
        """Whether the network's gain over the mixed model is so large that it may do better without it.

        Args:
            on_mixed: has the best theta_S on the mixed model.
        """
        return on_mixed.best > self.auc + self.alone_above

    def start_alone(self, on_mixed: EarlyStop, val: Columns) -> Columns:
        """Give the learner its initial theta_S and training rows without the mixed model; returns `val` without it.

        Args:
            on_mixed: has the best theta_S on the mixed model, which is kept aside.
            val: validation rows.
        """
        self.best = on_mixed
        self.learner.shared = self.initial()
        self.learner.train = replace(self.learner.train, base_logits=None)
        return replace(val, base_logits=None)

    def choose(self, alone: EarlyStop) -> EarlyStop:
        """Leave the learner with the network of the better validation, and return its early stop.

        Args:
            alone: of the network without the mixed model, whose best theta_S the learner has.
        """
        on_mixed, self.best = self.best, EarlyStop(1, self.learner)  # the other one is released
        self.is_kept = not alone.best > on_mixed.best
        if self.is_kept:
            on_mixed.restore_best()
        return on_mixed if self.is_kept else alone

    def state_dict(self) -> State:
        """The AUC of the mixed model, and the best theta_S on it; the model itself has its own state."""
        best = State.join({"best": self.best.state_dict()})
        return replace(best, same={"auc": torch.tensor(self.auc, dtype=torch.float64), **best.same})

    def load_state_dict(self, state: State) -> None:
        """Take over a state; an empty one is of a run that began before networks were trained alone.

        Raises:
            MamdrError: it is of another model.
        """
        if state.is_empty():
            return
        self.best.load_state_dict(state.part("best"))
        self.auc = float(state.tensor(state.same, "auc", torch.tensor(0.0, dtype=torch.float64)))
