"""What a learning method is: its updates of theta_S and theta_i, and the settings that they run with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.settings import DRSettings, LearningSettings
from mamdr_core.plugins import parse_options
from mamdr_core.stateful import Stateful

JOINT_LR = 1e-3
"""Inner rate of steps on rows of all domains, the paper's."""
DOMAIN_LR = 3e-4
"""Inner rate of steps on one domain, which are smaller and more."""


class Update(Stateful, Protocol):
    """Moves theta_S, or every theta_i, of the learner that it was made with."""

    def __call__(self, round_: Round) -> None:
        """Do this rank's part of a round; every rank takes part in every round, also one without rows."""


@dataclass(frozen=True)
class Method:
    """A learning method. Its file declares it, and `mamdr_core.learning.methods` registers it under its name.

    Attributes:
        shared: makes the update that moves theta_S in a round; None: theta_S keeps its initial values.
        specific: makes the update that moves every theta_i in a round, or in a pass once theta_S has settled; None:
            there is no theta_i.
        dr: the method's variation of DR's settings, from those that are set and the inner rate alpha.
        mixed: whether a mixed model is fitted first, and the network learns what it leaves (`mamdr_core.mixed`).
        lr: inner learning rate alpha if none is set.
        combines_gradients: whether its steps combine gradients, of several domains or ranks: with the eager engine, on
            whole embedding tables.
        has_outer: whether theta_S moves by the outer update that is set, with its momenta.
        carries_moments: whether its inner loops may carry Adam's moments from one to the next.
        mixes: whether the update of theta_S learns from `Round.mixed`, rows of all domains shuffled together, and not
            from `Round.visits`.
        options: class of the method's own settings, made by `mamdr_core.settings.settings`: `train.options` as such an
            instance is `Learner.settings.options`. None: it has none.
    """

    shared: Callable[[Learner], Update] | None
    specific: Callable[[Learner], Update] | None = None
    dr: Callable[[DRSettings, float], DRSettings] = lambda dr, alpha: dr
    mixed: bool = False
    lr: float = DOMAIN_LR
    combines_gradients: bool = False
    has_outer: bool = False
    carries_moments: bool = True
    mixes: bool = False
    options: type | None = None

    def settle(self, settings: LearningSettings) -> LearningSettings:
        """The settings that the method runs with: its inner rate if none is set, its variation of DR, its own options.

        Raises:
            MamdrError: options that the method does not declare, or of the wrong kind.
        """
        alpha = self.lr if settings.inner.lr is None else settings.inner.lr
        options = parse_options("train.options", self.options, settings.options)
        inner = replace(settings.inner, lr=alpha)
        return replace(settings, inner=inner, dr=self.dr(settings.dr, alpha), options=options)
