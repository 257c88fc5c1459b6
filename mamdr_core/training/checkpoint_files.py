"""Whether a checkpoint's files are all there and fit together, see `mamdr_core.training.state`: no tensor is read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mamdr_core.training.intact import Count, Dense, check_facts, check_specific, read_object
from mamdr_core.training.state_files import check_state


class ValidationFacts(BaseModel):
    """A point of a run's curve, in a checkpoint."""

    model_config = ConfigDict(extra="forbid")
    phase: str
    round: Count
    epoch: Count
    rows: Count
    seconds: float
    val_auc: float | None
    weighted_val_auc: float | None
    best: bool


class PositionFacts(BaseModel):
    """Where a rank was, in a checkpoint."""

    stage: Annotated[int, Field(ge=0, le=2)]
    done: Count
    rounds: Count
    best_round: Count
    inner_seconds: float
    waited_seconds: float
    seconds: float
    rows_descended: Count
    skipped_steps: Count
    curve: list[ValidationFacts]


class RankFacts(BaseModel):
    """A rank's part of a checkpoint's state.json."""

    position: PositionFacts
    counters: dict[str, Count]
    domains: list[Annotated[int, Field(ge=0, strict=True)]]


class CheckpointFacts(BaseModel):
    """A checkpoint's state.json."""

    ranks: Annotated[list[RankFacts], Field(min_length=1)]


def check_checkpoint(folder: Path, names: Iterable[str], state: str) -> None:
    """Check that a checkpoint's files are all there and of the shapes that belong together.

    Whether they are of the model that is trained is checked by the objects that take over their tensors.

    Args:
        folder: the checkpoint, its hashes checked before.
        names: of its files.
        state: name of the JSON file.

    Raises:
        MamdrError: one is not.
    """
    listed = set(names)
    facts = check_facts(CheckpointFacts, read_object(folder / state), folder / state)
    check_state(folder, listed, len(facts.ranks))
    dense: Dense | None = None
    for name in sorted(listed):
        if name.startswith(("best-", "now-")):
            dense = check_specific(folder / name, dense)
