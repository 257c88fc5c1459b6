"""Reptile, batch version (Nichol et al. 2018): the outer update uses the mean of the changes of all domains."""

from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.engine.parameters import EVERYTHING, Theta
from mamdr_core.engine.stacked_changes import ChangeSum
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.method import Method
from mamdr_core.runtime.stateful import State

GROUP = 256
"""Number of trajectories that run together, with their changes in memory."""


class Reptile:
    """The outer optimizer on the mean over domains of theta~ - theta.

    An embedding row moves by the mean over the domains that touched it. A domain's k inner steps are the batches of its
    slice, with fresh optimizer state. k depends on the number of rounds, and is largest for full passes (R = 1).

    Args:
        learner: the learner with theta_S.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._outer = OuterOptimizer(learner.settings.outer, learner.state_memory)

    def __call__(self, round_: Round) -> None:
        """Descend on every domain of a round from the same theta_S, then move it by the mean change."""
        learner, settings = self._learner, self._learner.settings
        visits = round_.visits(learner.train)
        learner.prefetch(visits.values())
        domains = list(visits)
        total = ChangeSum()
        for first in range(0, len(domains), GROUP):
            group = domains[first : first + GROUP]
            changes = learner.engine.descend_many(
                [Theta(learner.shared)] * len(group),
                [[visits[domain]] for domain in group],
                learner.alpha(round_),
                settings.inner.optimizer,
                [EVERYTHING] * len(group),
                [learner.round_seed(round_, domain) for domain in group],
            )
            for change in changes:
                total.add(change)
        learner.count(list(visits.values()))
        mean = total.mean_of_touched() if domains else learner.no_change()
        self._outer.step(learner.shared, learner.average(mean, float(len(domains))), round_.outer_factor)

    def state_dict(self) -> State:
        """State of the outer optimizer."""
        return self._outer.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Load the state of the outer optimizer."""
        self._outer.load_state_dict(state, self._learner.shared)


METHOD = Method(Reptile, has_outer=True, carries_moments=False)
