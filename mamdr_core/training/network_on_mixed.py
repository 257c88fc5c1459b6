"""Trains a network on top of a mixed model, and again without it if that may be better (docs/mixed.md)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.parameters import Shared
from mamdr_core.learning.learner import Learner
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.runtime.stateful import State
from mamdr_core.training.early_stop import EarlyStop


@dataclass
class NetworkOnMixed:
    """Trains a learner's network on top of a mixed model, and then without it if its gain is large.

    Args:
        initial: returns the initial theta_S.
        alone_above: see `MixedSettings`.

    Attributes:
        auc: mean validation AUC of the mixed model without a network.
        best: best theta_S on top of the mixed model, set once the network is trained without it.
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
        self.best = EarlyStop(1, self.learner)

    def set_base_logits(self, val: Columns) -> Columns:
        """Set the mixed model's leave-one-out logits as base logits of training rows; returns `val` with its logits."""
        self.learner.train = self.mixed.with_left_out_logits(self.learner.train)
        return self.mixed.with_base_logits(val)

    def start_without_mixed(self, on_mixed: EarlyStop, val: Columns) -> Columns:
        """Reset the learner to its initial theta_S and remove the base logits; returns `val` without base logits.

        Args:
            on_mixed: early stop of the network on top of the mixed model, which is kept for `choose`.
        """
        self.best = on_mixed
        self.learner.shared = self.initial()
        self.learner.train = replace(self.learner.train, base_logits=None)
        return replace(val, base_logits=None)

    def choose(self, without_mixed: EarlyStop) -> EarlyStop:
        """Give the learner the network with the better validation AUC, and return its early stop.

        Args:
            without_mixed: early stop of the network without the mixed model, whose best theta_S the learner has.
        """
        on_mixed, self.best = self.best, EarlyStop(1, self.learner)  # releases the other one
        self.is_kept = not without_mixed.best > on_mixed.best
        if self.is_kept:
            on_mixed.restore_best()
        return on_mixed if self.is_kept else without_mixed

    def state_dict(self) -> State:
        """AUC of the mixed model and best theta_S on top of it; the mixed model itself is saved on its own."""
        best = State.join({"best": self.best.state_dict()})
        return replace(best, same={"auc": torch.tensor(self.auc, dtype=torch.float64), **best.same})

    def load_state_dict(self, state: State) -> None:
        """Restore a state."""
        self.best.load_state_dict(state.part("best"))
        self.auc = float(state.tensor(state.same, "auc", torch.tensor(0.0, dtype=torch.float64)))
