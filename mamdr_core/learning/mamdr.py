"""MAMDR: Algorithm 3, the loop in which every learning method of this package runs."""

from collections.abc import Callable, Iterable

from mamdr_core.learning.domain_negotiation import DomainNegotiation
from mamdr_core.learning.domain_regularization import DomainRegularization
from mamdr_core.learning.learner import Round
from mamdr_core.learning.method import Method

METHOD = Method(shared=DomainNegotiation, specific=DomainRegularization, has_outer=True)


def mamdr(
    rounds: Iterable[Round],
    update_shared: Callable[[Round], None] | None,
    update_specific: Callable[[Round], None] | None,
    after_round: Callable[[], bool],
) -> None:
    """Algorithm 3; the result (line 7) is theta_S and theta_i of the learner whose updates are passed.

    The paper's schedule (`dr.schedule: rounds`) is one call with both updates. The schedule `settled` is two calls: the
    first one with `update_shared` until theta_S has settled, the second one with `update_specific`, where a round is a
    pass over all of T^i. Other learning methods have other updates, or only one of the two.

    Args:
        rounds: the rounds of all epochs.
        update_shared: Domain Negotiation (Alg. 1).
        update_specific: Domain Regularization (Alg. 2) for all domains of this rank.
        after_round: called after every round; returns whether to stop.
    """
    for round_ in rounds:  # line 1: every epoch is divided into rounds
        if update_shared:
            update_shared(round_)  # line 2: theta_S by Alg. 1
        if update_specific:
            update_specific(round_)  # lines 3-5: for i = 1, ..., n theta_i by Alg. 2
        if after_round():
            break
