"""The definition of a learning method: its updates of theta_S and theta_i, and their settings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mamdr_core.config.learning import DRSettings, LearningSettings
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.runtime.plugins import parse_options
from mamdr_core.runtime.stateful import Stateful

JOINT_LR = 1e-3
"""Default inner learning rate of steps on rows of all domains, from the paper."""
DOMAIN_LR = 3e-4
"""Default inner learning rate of steps on rows of one domain, which are smaller and more numerous."""


class Update(Stateful, Protocol):
    """Updates theta_S, or every theta_i, of its learner."""

    def __call__(self, round_: Round) -> None:
        """Process this rank's part of a round; a collective call of all ranks, including ranks without rows."""


@dataclass(frozen=True)
class Method:
    """A learning method. Its file declares it, and `mamdr_core.learning.methods` registers it under its name.

    Attributes:
        shared: creates the update of theta_S in a round; None: theta_S keeps its initial values.
        specific: creates the update of every theta_i in a round, or in a pass once theta_S has settled; None: there is
            no theta_i.
        dr: the method's changes to the settings of DR, given those and the inner learning rate alpha.
        mixed: whether a mixed model is fitted first, and the network is trained with its logits as an offset
            (`mamdr_core.mixed`).
        lr: inner learning rate alpha if none is set.
        combines_gradients: whether its steps combine gradients of several domains or ranks, which needs the eager
            engine and whole embedding tables.
        has_outer: whether theta_S is updated by the configured outer optimizer.
        carries_moments: whether its inner loops can carry Adam's moments from one to the next.
        mixes: whether the update of theta_S uses `Round.mixed`, mixed rows of all domains, instead of `Round.visits`.
        options: settings class of the method, decorated by `mamdr_core.config.settings.settings`; its instance with the
            values of `train.options` is `Learner.settings.options`. None: the method has no options.
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
        """Complete the settings for this method: its inner learning rate if none is set, its DR, and its options.

        Raises:
            MamdrError: the method does not declare an option, or its value has the wrong type.
        """
        alpha = self.lr if settings.inner.lr is None else settings.inner.lr
        options = parse_options("train.options", self.options, settings.options)
        inner = replace(settings.inner, lr=alpha)
        return replace(settings, inner=inner, dr=self.dr(settings.dr, alpha), options=options)
