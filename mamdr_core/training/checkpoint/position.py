"""Position and counters of a run: the part of a checkpoint that consists of plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mamdr_core.training.curve import Validation


@dataclass
class Position:
    """Position and counters of a run on one rank; seconds include earlier attempts.

    Attributes:
        stage: number of the stage, from 0.
        done: rounds or passes of the stage that are done.
        rounds: rounds of the earlier stages.
        best_round: best round of the earlier stages.
        inner_seconds: seconds in inner loops.
        waited_seconds: seconds of these in which steps waited for their rows.
        seconds: seconds since the start of this rank.
        rows_descended: rows that inner loops of this rank have descended on.
        skipped_steps: steps of this rank that were skipped because their loss was not finite.
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

    def load(self, ranks: "Sequence[Position]", rank: int) -> None:
        """Restore the values from those of the ranks that wrote a checkpoint; their number may differ from today's.

        Rank 0 continues the counts of rows and steps for all ranks together. Seconds in inner loops are those of the
        slowest rank, and total seconds those of rank 0.
        """
        for name in ("stage", "done", "rounds", "best_round", "seconds"):
            setattr(self, name, getattr(ranks[0], name))
        for name in ("inner_seconds", "waited_seconds"):
            setattr(self, name, max(getattr(own, name) for own in ranks))
        if rank == 0:
            self.rows_descended = sum(own.rows_descended for own in ranks)
            self.skipped_steps = sum(own.skipped_steps for own in ranks)
            self.curve = ranks[0].curve
