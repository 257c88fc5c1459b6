"""Whether saved files hold what they should, from JSON's kinds and the headers of safetensors: no tensor is read."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from mamdr_core.errors import MamdrError
from mamdr_core.yaml_values import one_line

Header = dict[str, tuple[str, tuple[int, ...]]]
"""By name of a tensor, its type as safetensors spells it, and its shape."""
M = TypeVar("M", bound=BaseModel)
Count = Annotated[int, Field(ge=0)]
_FLOATS = ("F32", "F64")


class StopFacts(BaseModel):
    """Early stop, in a checkpoint."""

    best: float | None
    best_round: Count
    waited: Count


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


class RankFacts(BaseModel):
    """A rank's part of a checkpoint's state.json."""

    phase: Annotated[int, Field(ge=0, le=1)]
    done: Count
    rounds: Count
    best_round: Count
    stop: StopFacts
    inner_seconds: float
    seconds: float
    curve: list[ValidationFacts]
    waited_seconds: float
    rows_descended: Count
    skipped_steps: Count
    outer_steps: Count
    adam_steps: Count | None
    rounds_since_dr: Count


class CheckpointFacts(BaseModel):
    """A checkpoint's state.json."""

    ranks: Annotated[list[RankFacts], Field(min_length=1)]


class PinnedFacts(BaseModel):
    """A package's pinned.json."""

    versions: dict[str, Count]
    sizes: dict[str, Count]
    numeric: dict[str, tuple[float, float]]


class MetricsFacts(BaseModel):
    """What a package's metrics.json holds at least."""

    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        MamdrError: it does not.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MamdrError(f"{file} cannot be read as JSON ({one_line(error)})") from None
    if not isinstance(found, dict):
        raise MamdrError(f"{file} is damaged: it holds no JSON object")
    return found


def check_facts(kind: type[M], values: Mapping[str, Any], file: str | Path) -> M:
    """The values of a JSON file as what they should be.

    Raises:
        MamdrError: a key is missing or of another kind; it is named.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"])
        raise MamdrError(one_line(f"{file} is damaged: {where}: {found['msg']}")) from None


def check_checkpoint(folder: Path, names: Iterable[str], state: str) -> None:
    """Check that a checkpoint's files are all there and of the shapes that belong together.

    Args:
        folder: the checkpoint, its hashes checked before.
        names: of its files.
        state: name of the JSON file.

    Raises:
        MamdrError: one is not.
    """
    listed = set(names)
    facts = check_facts(CheckpointFacts, read_object(folder / state), folder / state)
    ranks = range(len(facts.ranks))
    needed = {"shared.safetensors", *(f"{of}-{rank:05d}.safetensors" for of in ("shared", "rank") for rank in ranks)}
    if missing := sorted(needed - listed):
        raise MamdrError(f"checkpoint {folder}: its manifest lists no {missing[0]}")
    dense = check_shared(folder / "shared.safetensors", "now.")
    for rank, own in enumerate(facts.ranks):
        _check_own(folder / f"rank-{rank:05d}.safetensors", dense, own.adam_steps is not None)
        _check_matrices(folder / f"shared-{rank:05d}.safetensors", dense.type)
    for name in listed:
        if name.startswith(("best-", "now-")):
            check_specific(folder / name, dense)


@dataclass(frozen=True)
class Dense:
    """Dense parameters: their type, which is that of all others, and how many they are."""

    type: str
    size: int


def check_shared(file: Path, of: str = "") -> Dense:
    """Check theta_S, "<of>dense" [P] and tables of rows; of a package nothing else may be there.

    Raises:
        MamdrError: it is damaged.
    """
    header = read_header(file)
    (size,) = _expect(file, header, f"{of}dense", _FLOATS, (None,))
    dense = Dense(header[f"{of}dense"][0], size)
    for name in header:
        if not of and name != "dense" and not name.startswith("table."):
            _damaged(file, name)
        _expect(file, header, name, dense.type, (size,) if name.endswith("dense") else (None, None))
    return dense


def check_shards(files: Sequence[Path]) -> None:
    """Check that W ranks' shards hold rows r, r + W, ... of the same tables.

    Raises:
        MamdrError: they do not.
    """
    headers = [read_header(file) for file in files]
    for file, header in zip(files, headers, strict=True):
        _check_matrices(file, _FLOATS)
        if header.keys() != headers[0].keys():
            raise MamdrError(f"{file} is damaged: it has other tables than {files[0].name}")
    for name in headers[0] if headers else ():
        if not name.startswith("table."):
            _damaged(files[0], name)
        rows = sum(header[name][1][0] for header in headers)
        for rank, (file, header) in enumerate(zip(files, headers, strict=True)):
            _expect(file, header, name, _FLOATS, (len(range(rank, rows, len(files))), headers[0][name][1][1]))


def check_specific(file: Path, dense: Dense) -> None:
    """Check a file of theta_i, see `mamdr_core.training.specific_files`.

    Raises:
        MamdrError: it is damaged.
    """
    header = read_header(file)
    (domains,) = _expect(file, header, "domains", "I64", (None,))
    _expect(file, header, "dense", dense.type, (domains, dense.size))
    for name in header:
        table, _, part = name.rpartition(".")
        if table and part in ("owner", "ids", "values"):
            (rows,) = _expect(file, header, f"{table}.owner", "I64", (None,))
            _expect(file, header, f"{table}.ids", "I64", (rows,))
            _expect(file, header, f"{table}.values", dense.type, (rows, None))


def read_header(file: Path) -> Header:
    """What a safetensors file says that it holds.

    Raises:
        MamdrError: it is no such file.
    """
    try:
        with safe_open(file, "pt") as saved:
            slices = {name: saved.get_slice(name) for name in saved.keys()}  # noqa: SIM118 - not a mapping
            return {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise MamdrError(f"{file} is no file of tensors, or a damaged one ({one_line(error)})") from None


def _check_own(file: Path, dense: Dense, with_adam: bool) -> None:
    """What is a rank's own: the weighted loss's state, places of pending rows, and Adam's moments in pairs."""
    header = read_header(file)
    (domains,) = _expect(file, header, "s.counts", "I64", (None,))
    for name in ("s.values", "s.first", "s.second"):
        _expect(file, header, name, dense.type, (domains,))
    if with_adam:
        _expect(file, header, "adam.first.dense", dense.type, (dense.size,))
    for name, (_, shape) in header.items():
        kind, _, rest = name.partition(".")
        if kind == "pending":
            if not re.fullmatch(r"\d{1,9}", rest) or int(rest) >= domains:
                _damaged(file, name)
            _expect(file, header, name, "I64", (None,))
        elif name.startswith("adam."):
            twin = name.replace("first", "second", 1) if "first" in name else name.replace("second", "first", 1)
            _expect(file, header, twin, dense.type, shape)


def _check_matrices(file: Path, types: str | tuple[str, ...]) -> None:
    header = read_header(file)
    for name in header:
        _expect(file, header, name, types, (None, None))


def _expect(
    file: Path, header: Header, name: str, types: str | tuple[str, ...], shape: tuple[int | None, ...]
) -> tuple[int, ...]:
    """The shape of a tensor, which must be there, of one of the types, and as wanted where that is not None."""
    if name not in header:
        raise MamdrError(one_line(f"{file} is damaged: it has no tensor {name}"))
    found_type, found = header[name]
    fits = len(found) == len(shape) and all(want in (None, have) for want, have in zip(shape, found, strict=True))
    if found_type not in ((types,) if isinstance(types, str) else types) or not fits:
        _damaged(file, name)
    return found


def _damaged(file: Path, name: str) -> NoReturn:
    raise MamdrError(one_line(f"{file} is damaged: its tensor {name} has another type or shape than belongs there"))
