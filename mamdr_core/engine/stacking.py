"""Which trajectories run side by side: those of similar lengths and batches, as many as memory holds.

In a stack, trajectories with more steps come first, so that those which still run at a step are its first ones: a
finished trajectory takes no further time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np
from numpy.typing import NDArray

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Scope, Theta
from mamdr_core.engine.steps import ROWS_MULTIPLE

PADDING = {"cpu": 1.15, "cuda": 2.0}
"""Padded rows of a stack over its real ones, at most: on a CPU every row costs, on a GPU every step does.

Each batch may have `ROWS_MULTIPLE` rows more."""


@dataclass(frozen=True)
class Trajectory:
    """One of the trajectories that `descend_many` is called with.

    Attributes:
        place: among them.
        theta, visits, scope, seed: see `EagerEngine.descend`.
        rows_S: rows of each of its batches.
    """

    place: int
    theta: Theta
    visits: Sequence[Visit]
    scope: Scope
    seed: int
    rows_S: tuple[int, ...]

    @property
    def likeness(self) -> tuple[object, ...]:
        """Trajectories that are neighbours when sorted by this make stacks with little padding."""
        last = self.rows_S[-1] if self.rows_S else 0  # in DR the target's batch, which bounds its support's
        tables = sorted(self.scope.tables) if self.scope.tables is not None else ["*"]
        return tables, -len(self.rows_S), round(4 * log2(last + 1)), sum(self.rows_S)


@dataclass(frozen=True)
class StackLimits:
    """What a stack may take.

    Attributes:
        budget: bytes.
        trajectory_bytes: of one trajectory, without its rows.
        row_bytes: of a row of its largest step.
        padding: padded rows over real ones.
        size: trajectories.
    """

    budget: float
    trajectory_bytes: int
    row_bytes: int
    padding: float
    size: int


def line_up(
    thetas: Sequence[Theta],
    visits: Sequence[Sequence[Visit]],
    scopes: Sequence[Scope],
    seeds: Sequence[int],
    batch_size: int,
) -> list[Trajectory]:
    """Trajectories in the order in which `cut_stacks` makes stacks with little padding of them.

    Args:
        thetas, visits, scopes, seeds: of each, see `EagerEngine.descend_many`.
        batch_size: rows of a step at most, of visits that set no other number.
    """
    trajectories = [
        Trajectory(place, theta, own, scope, seed, _rows_of(own, batch_size))
        for place, (theta, own, scope, seed) in enumerate(zip(thetas, visits, scopes, seeds, strict=True))
    ]
    return sorted(trajectories, key=lambda trajectory: trajectory.likeness)


def _rows_of(visits: Sequence[Visit], batch_size: int) -> tuple[int, ...]:
    return tuple(batch.stop - batch.start for visit in visits for batch in visit.batches(batch_size))


def cut_stacks(trajectories: Sequence[Trajectory], limits: StackLimits) -> Iterator[list[Trajectory]]:
    """Stacks of neighbours within the limits; a trajectory that exceeds them alone is a stack.

    Args:
        trajectories: sorted by likeness.
        limits: of every stack.
    """
    stack: list[Trajectory] = []
    steps = PaddedSteps.none()
    for trajectory in trajectories:
        wider = steps.with_one(trajectory.rows_S)
        if stack and not (stack[0].scope.tables == trajectory.scope.tables and _fits(wider, len(stack) + 1, limits)):
            yield stack
            stack, wider = [], PaddedSteps.none().with_one(trajectory.rows_S)
        stack.append(trajectory)
        steps = wider
    if stack:
        yield stack


@dataclass(frozen=True)
class PaddedSteps:
    """The steps of a stack's trajectories, those with more steps first.

    Attributes:
        widest_S: rows of the largest batch of each step.
        running_S: trajectories that have each step.
        rows: of all batches, without padding.
    """

    widest_S: NDArray[np.int64]
    running_S: NDArray[np.int64]
    rows: int

    @classmethod
    def none(cls) -> "PaddedSteps":
        """Of no trajectory."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 0)

    def with_one(self, rows_S: Sequence[int]) -> "PaddedSteps":
        """With another trajectory, which has no more steps than those before."""
        own_S = np.asarray(rows_S, dtype=np.int64)
        if not self.rows:
            return PaddedSteps(own_S, np.ones_like(own_S), int(own_S.sum()))
        widest_S, running_S = self.widest_S.copy(), self.running_S.copy()
        np.maximum(widest_S[: len(own_S)], own_S, out=widest_S[: len(own_S)])
        running_S[: len(own_S)] += 1
        return PaddedSteps(widest_S, running_S, self.rows + int(own_S.sum()))


def _fits(steps: PaddedSteps, size: int, limits: StackLimits) -> bool:
    widest = int(steps.widest_S.max(initial=0))
    most = int(limits.budget / (limits.trajectory_bytes + widest * limits.row_bytes))
    padded = int(steps.widest_S @ steps.running_S)
    return size <= min(most, limits.size) and padded <= limits.padding * steps.rows + ROWS_MULTIPLE * int(
        steps.running_S.sum()
    )
