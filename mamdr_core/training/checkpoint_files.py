"""Whether a checkpoint's files are all there and fit together, see `mamdr_core.training.state`: no tensor is read."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mamdr_core.errors import MamdrError
from mamdr_core.training.intact import (
    Count,
    Dense,
    check_facts,
    check_row_parts,
    check_specific,
    expect,
    raise_damaged,
    read_header,
    read_object,
)


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

    stage: Annotated[int, Field(ge=0, le=1)]
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
    groups = ("rows", "domains", "own")
    files = {group: [f"{group}-{rank:05d}.safetensors" for rank in range(len(facts.ranks))] for group in groups}
    needed = {"shared.safetensors", *(name for group in groups for name in files[group])}
    if missing := sorted(needed - listed):
        raise MamdrError(f"checkpoint {folder}: its manifest lists no {missing[0]}")
    for name in ("shared.safetensors", *files["own"]):
        read_header(folder / name)
    check_row_parts([folder / name for name in files["rows"]])
    _check_domain_rows([folder / name for name in files["domains"]])
    dense: Dense | None = None
    for name in sorted(listed):
        if name.startswith(("best-", "now-")):
            dense = check_specific(folder / name, dense)


def _check_domain_rows(files: Sequence[Path]) -> None:
    """Check that every name has domains and values, and that a name's rows are alike in all files."""
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        header = read_header(file)
        for key, (kind, shape) in header.items():
            name, _, part = key.rpartition(".")
            if part not in ("domain", "values"):
                raise_damaged(file, key)
            (rows,) = expect(file, header, f"{name}.domain", "I64", (None,))
            if part == "values" and (
                shape[:1] != (rows,) or kinds.setdefault(name, (kind, shape[1:])) != (kind, shape[1:])
            ):
                raise_damaged(file, key)
            if f"{name}.values" not in header:
                raise_damaged(file, key)
