"""Checks that the files of a checkpoint, see `mamdr_core.training.state`, are complete and agree."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mamdr_core.training.intact import Count, Dense, check_specific, read_json, validate_json
from mamdr_core.training.state_files import check_state


class ValidationJson(BaseModel):
    """A validation in a checkpoint."""

    model_config = ConfigDict(extra="forbid")
    phase: str
    round: Count
    epoch: Count
    rows: Count
    seconds: float
    val_auc: float | None
    weighted_val_auc: float | None
    best: bool


class PositionJson(BaseModel):
    """Position and counters of a rank in a checkpoint."""

    stage: Annotated[int, Field(ge=0, le=2)]
    done: Count
    rounds: Count
    best_round: Count
    inner_seconds: float
    waited_seconds: float
    seconds: float
    rows_descended: Count
    skipped_steps: Count
    curve: list[ValidationJson]


class RankJson(BaseModel):
    """Entry of a rank in state.json."""

    position: PositionJson
    counters: dict[str, Count]
    domains: list[Annotated[int, Field(ge=0, strict=True)]]


class StateJson(BaseModel):
    """Content of state.json."""

    ranks: Annotated[list[RankJson], Field(min_length=1)]


def check_checkpoint(folder: Path, names: Iterable[str], state: str) -> None:
    """Check that the files of a checkpoint exist and that their shapes agree.

    The objects that restore the tensors check that these belong to their model.

    Args:
        folder: the checkpoint, whose hashes have been checked.
        names: names of its files.
        state: name of the JSON file.

    Raises:
        MamdrError: a file is missing, or shapes disagree.
    """
    listed = set(names)
    facts = validate_json(StateJson, read_json(folder / state), folder / state)
    check_state(folder, listed, len(facts.ranks))
    dense: Dense | None = None
    for name in sorted(listed):
        if name.startswith(("best-", "now-")):
            dense = check_specific(folder / name, dense)
