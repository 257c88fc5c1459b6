"""Groups trajectories with similar numbers of steps and rows into stacks that fit in memory.

The trajectories of a stack are in descending order of their number of steps: those that have a step are the first ones,
and a finished trajectory takes no time.
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
"""Maximum ratio of padded to real rows of a stack: on a CPU time depends on rows, on a GPU on the number of steps.

Every batch may have `ROWS_MULTIPLE` additional rows."""


@dataclass(frozen=True)
class Trajectory:
    """A trajectory of `descend_many`.

    Attributes:
        place: its position in the arguments.
        theta, visits, scope, seed: see `EagerEngine.descend`.
        rows_S: number of rows of each batch.
    """

    place: int
    theta: Theta
    visits: Sequence[Visit]
    scope: Scope
    seed: int
    rows_S: tuple[int, ...]

    @property
    def sort_key(self) -> tuple[object, ...]:
        """Sort key: stacks of adjacent trajectories have little padding."""
        last = self.rows_S[-1] if self.rows_S else 0  # in DR a batch of the target, which limits those of supports
        tables = sorted(self.scope.tables) if self.scope.tables is not None else ["*"]
        return tables, -len(self.rows_S), round(4 * log2(last + 1)), sum(self.rows_S)


@dataclass(frozen=True)
class StackLimits:
    """Limits of a stack.

    Attributes:
        budget: bytes of memory.
        trajectory_bytes: bytes per trajectory, without rows.
        row_bytes: bytes per row of its largest step.
        padding: maximum ratio of padded to real rows.
        size: maximum number of trajectories.
    """

    budget: float
    trajectory_bytes: int
    row_bytes: int
    padding: float
    size: int


def sort_trajectories(
    thetas: Sequence[Theta],
    visits: Sequence[Sequence[Visit]],
    scopes: Sequence[Scope],
    seeds: Sequence[int],
    batch_size: int,
) -> list[Trajectory]:
    """Sort trajectories for `cut_stacks`.

    Args:
        thetas, visits, scopes, seeds: see `EagerEngine.descend_many`.
        batch_size: maximum number of rows of a step, unless a visit sets another.
    """
    trajectories = [
        Trajectory(place, theta, own, scope, seed, _rows_of(own, batch_size))
        for place, (theta, own, scope, seed) in enumerate(zip(thetas, visits, scopes, seeds, strict=True))
    ]
    return sorted(trajectories, key=lambda trajectory: trajectory.sort_key)


def _rows_of(visits: Sequence[Visit], batch_size: int) -> tuple[int, ...]:
    return tuple(batch.stop - batch.start for visit in visits for batch in visit.batches(batch_size))


def cut_stacks(trajectories: Sequence[Trajectory], limits: StackLimits) -> Iterator[list[Trajectory]]:
    """Group adjacent trajectories into stacks within the limits; a trajectory that exceeds them has its own stack.

    Args:
        trajectories: trajectories in the order of `sort_trajectories`.
        limits: limits of every stack.
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
    """Sizes of the steps of a stack.

    Attributes:
        widest_S: number of rows of the largest batch of each step.
        running_S: number of trajectories that have each step.
        rows: number of rows of all batches, without padding.
    """

    widest_S: NDArray[np.int64]
    running_S: NDArray[np.int64]
    rows: int

    @classmethod
    def none(cls) -> "PaddedSteps":
        """The sizes of an empty stack."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 0)

    def with_one(self, rows_S: Sequence[int]) -> "PaddedSteps":
        """The sizes with an additional trajectory, which has at most as many steps as the others."""
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
