"""Domain Negotiation that visits the largest slice of a round first and the smallest last."""

from dataclasses import replace

from mamdr_core.config.settings import settings
from mamdr_core.learning.domain_negotiation import DomainNegotiation
from mamdr_core.learning.domain_regularization import DomainRegularization
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.method import Method
from mamdr_core.runtime.stateful import State


@settings
class LargestFirstOptions:
    """`train.options` of the method."""

    random_rounds: int = 2
    """Rounds at the start whose order stays random."""


class LargestFirst:
    """The update of theta_S.

    Args:
        learner: has theta_S, and the options.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.options: LargestFirstOptions = learner.settings.options
        self.negotiate = DomainNegotiation(learner)
        self.rounds = 0

    def __call__(self, round_: Round) -> None:
        """Negotiate in another order."""
        self.rounds += 1
        visits = round_.visits(self.learner.train)
        if self.rounds > self.options.random_rounds:
            visits = dict(sorted(visits.items(), key=lambda visit: -len(visit[1].rows)))
        self.negotiate(replace(round_, balanced=visits))

    def state_dict(self) -> State:
        """The number of rounds, and what Domain Negotiation carries from round to round."""
        return State.join({"own": State(counters={"rounds": self.rounds}), "dn": self.negotiate.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Resume."""
        self.rounds = state.part("own").counter("rounds")
        self.negotiate.load_state_dict(state.part("dn"))


method = Method(LargestFirst, DomainRegularization, options=LargestFirstOptions)
