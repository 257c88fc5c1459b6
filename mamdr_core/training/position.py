"""Where a run is, and what it has spent: the part of a checkpoint that is plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mamdr_core.training.curve import Validation


@dataclass
class Position:
    """Where a run is on one rank.

    Attributes:
        stage: number of the stage, from 0.
        done: rounds of the stage, or passes.
        rounds: of the stages before.
        best_round: of the stages before.
        inner_seconds: in inner loops, of all attempts.
        waited_seconds: of those, that steps waited for their rows.
        seconds: of this rank since it began, of all attempts.
        rows_descended: rows that inner loops of this rank have descended on.
        skipped_steps: steps of this rank whose loss was not finite.
        curve: on rank 0, the validations so far.
    """

    stage: int = 0
    done: int = 0
    rounds: int = 0
    best_round: int = 0
    inner_seconds: float = 0.0
    waited_seconds: float = 0.0
    seconds: float = 0.0
    rows_descended: int = 0
    skipped_steps: int = 0
    curve: list[Validation] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The values as JSON has them."""
        return asdict(self)

    def load(self, ranks: Sequence[Mapping[str, Any]], rank: int) -> None:
        """Take over the values of the ranks that wrote a checkpoint, whose number may be another.

        Counts of rows and steps continue on rank 0 alone, for all ranks together; seconds are those of the slowest
        rank, and since the beginning those of rank 0.

        Args:
            ranks: what `plain` gave on every rank.
            rank: this one.
        """
        for name in ("stage", "done", "rounds", "best_round"):
            setattr(self, name, ranks[0][name])
        for name in ("inner_seconds", "waited_seconds"):
            setattr(self, name, max(own[name] for own in ranks))
        self.seconds = ranks[0]["seconds"]
        if rank == 0:
            self.rows_descended = sum(own["rows_descended"] for own in ranks)
            self.skipped_steps = sum(own["skipped_steps"] for own in ranks)
            self.curve = [Validation(**point) for point in ranks[0]["curve"]]
