"""How theta_S learns: Domain Negotiation (Alg. 1), and the baselines joint, alternate and Reptile."""

from collections.abc import Sequence

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.engine.parameters import EVERYTHING, Theta
from mamdr_core.engine.settings import OuterSettings
from mamdr_core.engine.stacked_changes import ChangeSum
from mamdr_core.learning.learner import Learner, Round

TOGETHER = 256
"""Reptile's trajectories whose changes lie in memory at once."""

PLAIN = OuterOptimizer(OuterSettings(optimizer="sgd", beta=1.0))
"""Takes theta~ as it is: on one rank the rounds leave no trace; on several their results are averaged."""


def negotiate(learner: Learner, round_: Round) -> None:
    """One round of Domain Negotiation (Alg. 1, lines 2-7; Eq. 3 and 4).

    On several ranks each runs lines 2-6 over its own domains, and line 7 takes the mean of theta~ - theta, weighted by
    rows.
    """
    visits = [Visit(learner.train, rows) for rows in round_.slices.values()]  # line 3: the round's order is random
    _move(learner, round_, visits, learner.outer)


def alternate(learner: Learner, round_: Round) -> None:
    """Alternate training: domain after domain, DN with beta = 1 (section 4.1)."""
    _move(learner, round_, [Visit(learner.train, rows) for rows in round_.slices.values()], PLAIN)


def joint(learner: Learner, round_: Round) -> None:
    """Joint training: mini-batches of all domains mixed (appendix A.3)."""
    _move(learner, round_, [Visit(learner.train, round_.mixed)], PLAIN)


def reptile(learner: Learner, round_: Round) -> None:
    """Reptile, batch version (Nichol et al. 2018): the outer update is the mean of every domain's own change.

    An embedding row takes the mean over the domains that touched it. A domain's k inner steps are the batches of its
    slice, with a fresh optimizer state: rounds decide k, full passes (R = 1) give most.
    """
    visits = {domain: Visit(learner.train, rows) for domain, rows in round_.slices.items()}
    learner.reach(visits.values())
    inner, domains = learner.inner, list(visits)
    total = ChangeSum()
    for first in range(0, len(domains), TOGETHER):
        group = domains[first : first + TOGETHER]
        changes = learner.engine.descend_many(
            [Theta(learner.shared)] * len(group),
            [[visits[domain]] for domain in group],
            learner.alpha,
            inner.optimizer,
            [EVERYTHING] * len(group),
            [learner.round_seed(round_, domain) for domain in group],
        )
        for change in changes:
            total.add(change)
    learner.count(list(visits.values()))
    mean = total.mean_of_touched() if domains else learner.no_change()
    learner.outer.step(learner.shared, learner.average(mean, float(len(domains))))


def _move(learner: Learner, round_: Round, visits: Sequence[Visit], outer: OuterOptimizer) -> None:
    theta = Theta(learner.shared)  # line 2
    learner.reach(visits)
    inner = learner.inner
    seed = learner.round_seed(round_, learner.rank)
    change = learner.engine.descend(  # lines 4-6
        theta, visits, learner.alpha, inner.optimizer, learner.carried_state(), seed=seed
    )
    outer.step(learner.shared, learner.average(change, float(learner.count(visits))))  # line 7
