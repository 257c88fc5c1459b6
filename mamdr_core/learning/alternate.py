"""Alternate training: one domain after another, which is Domain Negotiation with beta = 1 (section 4.1)."""

from mamdr_core.learning.domain_negotiation import DomainNegotiation
from mamdr_core.learning.inner_loop import TAKE_END
from mamdr_core.learning.learner import Learner
from mamdr_core.learning.method import Method


def alternate(learner: Learner) -> DomainNegotiation:
    """The update of theta_S."""
    return DomainNegotiation(learner, TAKE_END)


METHOD = Method(alternate)
