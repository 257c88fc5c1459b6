"""Updates of theta_S whose every inner step combines the gradients of several domains; what such methods share.

The rows of a round are dealt to inner steps so that every step reads many domains (`deal_steps`); a step combines their
gradients and hands the result to the inner optimizer. On several ranks each does so over its part of the round, and the
ends are averaged as in joint training.
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
from mamdr_core.stateful import State

PART_ROWS = 16
"""A domain takes part in fewer steps rather than with fewer rows."""
PROBE = 0.01
"""Distance of the two points whose gradients' difference is a Hessian-vector product (Liu et al. 2019, eq. 8)."""


class CombinedSteps(ABC):
    """One trajectory of theta_S in a round, whose every step moves along `direction`.

    Args:
        learner: has theta_S.

    Attributes:
        learner: the same.
        inner: has Adam's moments.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.inner = InnerLoop(learner)

    @abstractmethod
    def direction(self, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
        """What the inner optimizer takes for the gradient.

        Args:
            theta: where the trajectory is.
            visits: of the step, one for each of its domains.
            seeds: for each of them, decides dropout.
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
        """The inner optimizer's."""
        return State.join({"inner": self.inner.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Take over the inner optimizer's state.

        Raises:
            MamdrError: it is of another model.
        """
        self.inner.load_state_dict(state.part("inner"))


def deal_steps(visits: Mapping[int, Visit], batch_size: int) -> list[list[Visit]]:
    """A round's rows in steps of about `batch_size` rows, each with as many domains as there are.

    A domain of m rows takes part in min(steps, m / PART_ROWS) steps, evenly spread, with equal parts.

    Args:
        visits: by domain, in the round's random order, to its rows.
        batch_size: rows of a step, about.

    Returns:
        By step, a visit of each of its domains; steps without rows are left out.
    """
    count = max(1, round(sum(len(visit.rows) for visit in visits.values()) / batch_size))
    steps: list[list[Visit]] = [[] for _ in range(count)]
    for place, visit in enumerate(visits.values()):
        parts = min(count, max(1, len(visit.rows) // PART_ROWS))
        shift = (place + 0.5) / len(visits)
        for part, own in enumerate(visit.rows.tensor_split(parts)):
            steps[int((part + shift) * count / parts)].append(Visit(visit.columns, own))
    return [step for step in steps if step]


def gradients_of(learner: Learner, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> list[Change]:
    """The gradient of every visit's loss at one point."""
    return [learner.engine.gradient(theta, visit, seed) for visit, seed in zip(visits, seeds, strict=True)]


def hessian_product(
    learner: Learner, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int], along: Change
) -> Change:
    """H v of the mean of the visits' losses by a central difference of gradients, exact but for O(PROBE^2)."""
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
    """The mean of some changes; a row that one of them lacks counts as zero there."""
    total = ChangeSum()
    for change in changes:
        total.add(change, 1 / len(changes))
    return total.total()
