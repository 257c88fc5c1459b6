"""Which trajectories run side by side: alike ones, as many as memory holds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Scope, Theta

PADDING = {"cpu": 1.15, "cuda": 2.0}
"""Padded rows of a stack over its real ones, at most: on a CPU every row costs, on a GPU every step does."""


@dataclass(frozen=True)
class Trajectory:
    """One trajectory as `descend_many` is told of it.

    Attributes:
        place: among those that it was told of.
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
        trajectory_bytes: of one trajectory, beside its rows.
        row_bytes: of a row of its largest step.
        padding: padded rows over real ones.
        size: trajectories.
        multiple: of this many trajectories, where memory holds them: a CPU's threads share them out.
    """

    budget: float
    trajectory_bytes: int
    row_bytes: int
    padding: float
    size: int
    multiple: int


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
    """Stacks of neighbours within the limits; a trajectory that exceeds them alone is a stack of its own.

    Args:
        trajectories: sorted by likeness.
        limits: of every stack.
    """
    stack: list[Trajectory] = []
    widest_S: tuple[int, ...] = ()
    real = 0
    for trajectory in trajectories:
        if stack and not _fits(trajectory, stack, widest_S, real, limits):
            yield stack
            stack, real = [], 0
        if not stack:
            widest_S = trajectory.rows_S
        stack.append(trajectory)
        widest_S = _widened(widest_S, trajectory.rows_S)
        real += sum(trajectory.rows_S)
    if stack:
        yield stack


def _fits(
    trajectory: Trajectory, stack: list[Trajectory], widest_S: tuple[int, ...], real: int, limits: StackLimits
) -> bool:
    size = len(stack) + 1
    widest_S = _widened(widest_S, trajectory.rows_S)
    most = int(limits.budget / (limits.trajectory_bytes + max(widest_S, default=0) * limits.row_bytes))
    if most > limits.multiple:
        most -= most % limits.multiple
    return (
        size <= min(most, limits.size)
        and stack[0].scope.tables == trajectory.scope.tables
        and len(stack[0].rows_S) == len(trajectory.rows_S)
        and size * sum(widest_S) <= limits.padding * (real + sum(trajectory.rows_S)) + 8 * size * len(widest_S)
    )


def _widened(widest_S: tuple[int, ...], rows_S: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(max, widest_S, rows_S))
