"""Whether saved files hold what they should, by JSON's types and the headers of safetensors: no tensor is read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open

from mamdr_core.errors import MamdrError
from mamdr_core.yaml_values import one_line

Header = dict[str, tuple[str, tuple[int, ...]]]
"""By name of a tensor, its type as safetensors spells it, and its shape."""
M = TypeVar("M", bound=BaseModel)
Count = Annotated[int, Field(ge=0)]
_FLOATS = ("F32", "F64")


class PinnedFacts(BaseModel):
    """A package's pinned.json."""

    versions: dict[str, Count]
    sizes: dict[str, Count]
    numeric: dict[str, tuple[float, float]]
    quantiles: dict[str, list[float]] = {}


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


@dataclass(frozen=True)
class Dense:
    """Dense parameters: their type, which is that of all others, and how many they are."""

    type: str
    size: int


def check_shared(file: Path) -> Dense:
    """Check theta_S of a package: "dense" [P], tables of rows, and nothing else.

    Raises:
        MamdrError: it is damaged.
    """
    header = read_header(file)
    (size,) = expect(file, header, "dense", _FLOATS, (None,))
    dense = Dense(header["dense"][0], size)
    for name in header:
        if name != "dense" and not name.startswith("table."):
            raise_damaged(file, name)
        expect(file, header, name, dense.type, (size,) if name == "dense" else (None, None))
    return dense


def check_shards(files: Sequence[Path]) -> None:
    """Check that W ranks' shards hold rows r, r + W, ... of the same tables.

    Raises:
        MamdrError: they do not.
    """
    for name in check_row_parts(files):
        if not name.startswith("table."):
            raise_damaged(files[0], name)


def check_specific(file: Path, dense: Dense | None) -> Dense:
    """Check a file of theta_i, see `mamdr_core.training.specific_files`.

    Args:
        file: to check.
        dense: what theta_i's dense parameters should be; None: only the file's tensors have to fit one another.

    Returns:
        What they are.

    Raises:
        MamdrError: it is damaged.
    """
    header = read_header(file)
    (domains,) = expect(file, header, "domains", "I64", (None,))
    _, size = expect(file, header, "dense", dense.type if dense else _FLOATS, (domains, dense.size if dense else None))
    dense = Dense(header["dense"][0], size)
    for name in header:
        table, _, part = name.rpartition(".")
        if table and part in ("owner", "ids", "values"):
            (rows,) = expect(file, header, f"{table}.owner", "I64", (None,))
            expect(file, header, f"{table}.ids", "I64", (rows,))
            expect(file, header, f"{table}.values", dense.type, (rows, None))
    return dense


def check_calibration(file: Path) -> None:
    """Check a package's calibration: a slope and a shift of each domain, and the knots of a curve, if it has one.

    Raises:
        MamdrError: it is damaged.
    """
    header = read_header(file)
    (size,) = expect(file, header, "slope", "F64", (None,))
    expect(file, header, "shift", "F64", (size,))
    if not size:
        raise_damaged(file, "slope")
    if "knots" in header:
        (knots,) = expect(file, header, "knots", "F64", (None,))
        expect(file, header, "values", "F64", (knots,))
        if not knots:
            raise_damaged(file, "knots")


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


def check_row_parts(files: Sequence[Path]) -> list[str]:
    """Check that W files hold rows r, r + W, ... of the same tables; returns the names of the tables.

    Raises:
        MamdrError: they do not.
    """
    headers = [read_header(file) for file in files]
    for file, header in zip(files, headers, strict=True):
        for name in header:
            expect(file, header, name, _FLOATS, (None, None))
        if header.keys() != headers[0].keys():
            raise MamdrError(f"{file} is damaged: it has other tables than {files[0].name}")
    for name in headers[0] if headers else ():
        rows = sum(header[name][1][0] for header in headers)
        for rank, (file, header) in enumerate(zip(files, headers, strict=True)):
            kind, width = headers[0][name][0], headers[0][name][1][1]
            expect(file, header, name, kind, (len(range(rank, rows, len(files))), width))
    return list(headers[0]) if headers else []


def expect(
    file: Path, header: Header, name: str, types: str | tuple[str, ...], shape: tuple[int | None, ...]
) -> tuple[int, ...]:
    """The shape of a tensor, if it is there, of one of the types and, where that is not None, of the shape `shape`.

    Raises:
        MamdrError: it is not.
    """
    if name not in header:
        raise MamdrError(one_line(f"{file} is damaged: it has no tensor {name}"))
    found_type, found = header[name]
    fits = len(found) == len(shape) and all(want in (None, have) for want, have in zip(shape, found, strict=True))
    if found_type not in ((types,) if isinstance(types, str) else types) or not fits:
        raise_damaged(file, name)
    return found


def raise_damaged(file: Path, name: str) -> NoReturn:
    """Report a tensor that has another type or shape than it should.

    Raises:
        MamdrError: always.
    """
    raise MamdrError(one_line(f"{file} is damaged: its tensor {name} has another type or shape than belongs there"))
