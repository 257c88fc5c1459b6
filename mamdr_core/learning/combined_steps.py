"""Base of the methods whose inner steps combine the gradients of several domains.

The rows of a round are distributed over inner steps so that every step has rows of many domains (`deal_steps`). A step
combines their gradients, and the inner optimizer takes the result as the gradient. Each rank does so for its part of
the round, and the resulting changes are averaged as in joint training.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.engine.stacked_changes import ChangeSum
from mamdr_core.learning.inner_loop import TAKE_END, InnerLoop
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.runtime.stateful import State

MIN_DOMAIN_ROWS = 16
"""Minimum number of rows of a domain in a step, unless the domain has fewer; small domains are in fewer steps."""
PROBE = 0.01
"""Distance from theta of the two points in a Hessian-vector product by differences (Liu et al. 2019, eq. 8)."""


class CombinedSteps(ABC):
    """One trajectory of theta_S in a round, in which every step moves along `direction`.

    Args:
        learner: the learner with theta_S.

    Attributes:
        learner: the same learner.
        inner: the inner loop, which keeps Adam's moments.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.inner = InnerLoop(learner)

    @abstractmethod
    def direction(self, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
        """The direction that the inner optimizer uses as the gradient.

        Args:
            theta: the current point of the trajectory.
            visits: the visits of the step, one for each of its domains.
            seeds: the seed of each visit's dropout.
        """

    def __call__(self, round_: Round) -> None:
        """Descend on the steps of a round."""
        learner = self.learner
        steps = deal_steps(round_.visits(learner.train), learner.engine.batch_size)
        learner.prefetch(visit for visits in steps for visit in visits)
        state = self.inner.moments()
        moved = learner.no_change()
        rows = 0
        for number, visits in enumerate(steps):
            seeds = [learner.round_seed(round_, learner.rank, number, place) for place in range(len(visits))]
            gradient = self.direction(Theta(learner.shared, moved), visits, seeds)
            self.inner.step(moved, gradient, state, round_)
            rows += learner.count(visits)
        OuterOptimizer(TAKE_END).step(learner.shared, learner.average(moved, float(rows)))

    def state_dict(self) -> State:
        """State of the inner optimizer."""
        return State.join({"inner": self.inner.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Load the state of the inner optimizer."""
        self.inner.load_state_dict(state.part("inner"))


def deal_steps(visits: Mapping[int, Visit], batch_size: int) -> list[list[Visit]]:
    """Distribute a round's rows over steps of about `batch_size` rows, each with as many domains as possible.

    A domain of m rows is in min(steps, m / MIN_DOMAIN_ROWS) steps, evenly spaced, with equal parts.

    Args:
        visits: the visit of each domain, in the round's random order.
        batch_size: approximate number of rows of a step.

    Returns:
        For each step, the visits of its domains; steps without rows are left out.
    """
    count = max(1, round(sum(len(visit.rows) for visit in visits.values()) / batch_size))
    steps: list[list[Visit]] = [[] for _ in range(count)]
    for place, visit in enumerate(visits.values()):
        parts = min(count, max(1, len(visit.rows) // MIN_DOMAIN_ROWS))
        shift = (place + 0.5) / len(visits)
        for part, rows in enumerate(visit.rows.tensor_split(parts)):
            steps[int((part + shift) * count / parts)].append(Visit(visit.columns, rows))
    return [step for step in steps if step]


def gradients_of(learner: Learner, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> list[Change]:
    """The gradients of all visits' losses at one point."""
    return [learner.engine.gradient(theta, visit, seed) for visit, seed in zip(visits, seeds, strict=True)]


def hessian_product(
    learner: Learner, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int], along: Change
) -> Change:
    """The Hessian-vector product of the mean loss, by a central difference of gradients with an error of O(PROBE^2).

    Args:
        learner: computes gradients.
        theta: the point.
        visits: their losses are averaged.
        seeds: the seed of each visit's dropout.
        along: the vector.
    """
    length = along.norm()
    if not length:
        return along
    ahead, behind = (
        mean_of(gradients_of(learner, moved(theta, along, sign * PROBE / length), visits, seeds)) for sign in (1, -1)
    )
    difference = ahead.add(behind, -1.0)
    return Change(torch.zeros_like(along.dense)).add(difference, length / (2 * PROBE))


def moved(theta: Theta, change: Change, scale: float) -> Theta:
    """The point theta + scale * change."""
    specific = theta.specific or Change(torch.zeros_like(theta.shared.dense))
    return Theta(theta.shared, specific.add(change, scale))


def mean_of(changes: Sequence[Change]) -> Change:
    """The mean of some changes; rows that a change does not contain count as zero."""
    total = ChangeSum()
    for change in changes:
        total.add(change, 1 / len(changes))
    return total.total()
