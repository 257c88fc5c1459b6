"""Checks the types of JSON values, and names, types and shapes in headers of safetensors, without reading tensors."""

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
"""Type, as named by safetensors, and shape of each tensor."""
M = TypeVar("M", bound=BaseModel)
Count = Annotated[int, Field(ge=0)]
_FLOATS = ("F32", "F64")


class PinnedJson(BaseModel):
    """Content of a package's pinned.json."""

    versions: dict[str, Count]
    sizes: dict[str, Count]
    numeric: dict[str, tuple[float, float]]
    quantiles: dict[str, list[float]] = {}


class MetricsJson(BaseModel):
    """Required content of a package's metrics.json."""

    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        MamdrError: it does not.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MamdrError(f"{file} cannot be read as JSON ({one_line(error)})") from None
    if not isinstance(found, dict):
        raise MamdrError(f"{file} is damaged: it does not contain a JSON object")
    return found


def validate_json(kind: type[M], values: Mapping[str, Any], file: str | Path) -> M:
    """Parse the values of a JSON file.

    Raises:
        MamdrError: a key is missing or its value has another type; the message names it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"])
        raise MamdrError(one_line(f"{file} is damaged: {where}: {found['msg']}")) from None


@dataclass(frozen=True)
class Dense:
    """Type of the dense parameters, which all parameters share, and their number."""

    type: str
    size: int


def check_shared(file: Path) -> Dense:
    """Check theta_S of a package: "dense" [P] and tables [rows, D], and nothing else.

    Raises:
        MamdrError: it is damaged.
    """
    header = read_header(file)
    (size,) = expect_tensor(file, header, "dense", _FLOATS, (None,))
    dense = Dense(header["dense"][0], size)
    for name in header:
        if name != "dense" and not name.startswith("table."):
            raise_damaged(file, name)
        expect_tensor(file, header, name, dense.type, (size,) if name == "dense" else (None, None))
    return dense


def check_shards(files: Sequence[Path]) -> None:
    """Check that the shards of W ranks contain rows r, r + W, ... of the same tables.

    Raises:
        MamdrError: they do not.
    """
    for name in check_row_parts(files):
        if not name.startswith("table."):
            raise_damaged(files[0], name)


def check_specific(file: Path, dense: Dense | None) -> Dense:
    """Check a file of theta_i, see `mamdr_core.training.specific_files`.

    Args:
        file: the file.
        dense: expected dense parameters; None: only check that the tensors of the file agree.

    Returns:
        The dense parameters of the file.

    Raises:
        MamdrError: it is damaged.
    """
    header = read_header(file)
    (domains,) = expect_tensor(file, header, "domains", "I64", (None,))
    _, size = expect_tensor(
        file, header, "dense", dense.type if dense else _FLOATS, (domains, dense.size if dense else None)
    )
    dense = Dense(header["dense"][0], size)
    for name in header:
        table, _, part = name.rpartition(".")
        if table and part in ("owner", "ids", "values"):
            (rows,) = expect_tensor(file, header, f"{table}.owner", "I64", (None,))
            expect_tensor(file, header, f"{table}.ids", "I64", (rows,))
            expect_tensor(file, header, f"{table}.values", dense.type, (rows, None))
    return dense


def check_calibration(file: Path) -> None:
    """Check the calibration of a package: slope and shift of each domain, and the knots of a curve if it has one.

    Raises:
        MamdrError: it is damaged.
    """
    header = read_header(file)
    (size,) = expect_tensor(file, header, "slope", "F64", (None,))
    expect_tensor(file, header, "shift", "F64", (size,))
    if not size:
        raise_damaged(file, "slope")
    if "knots" in header:
        (knots,) = expect_tensor(file, header, "knots", "F64", (None,))
        expect_tensor(file, header, "values", "F64", (knots,))
        if not knots:
            raise_damaged(file, "knots")


def read_header(file: Path) -> Header:
    """Read the header of a safetensors file.

    Raises:
        MamdrError: it is not a valid safetensors file.
    """
    try:
        with safe_open(file, "pt") as saved:
            slices = {name: saved.get_slice(name) for name in saved.keys()}  # noqa: SIM118 - not a mapping
            return {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise MamdrError(f"{file} is not a valid safetensors file ({one_line(error)})") from None


def check_row_parts(files: Sequence[Path]) -> list[str]:
    """Check that W files contain rows r, r + W, ... of the same tables; returns the names of the tables.

    Raises:
        MamdrError: they do not.
    """
    headers = [read_header(file) for file in files]
    for file, header in zip(files, headers, strict=True):
        for name in header:
            expect_tensor(file, header, name, _FLOATS, (None, None))
        if header.keys() != headers[0].keys():
            raise MamdrError(f"{file} is damaged: it has other tables than {files[0].name}")
    for name in headers[0] if headers else ():
        rows = sum(header[name][1][0] for header in headers)
        for rank, (file, header) in enumerate(zip(files, headers, strict=True)):
            kind, width = headers[0][name][0], headers[0][name][1][1]
            expect_tensor(file, header, name, kind, (len(range(rank, rows, len(files))), width))
    return list(headers[0]) if headers else []


def expect_tensor(
    file: Path, header: Header, name: str, types: str | tuple[str, ...], shape: tuple[int | None, ...]
) -> tuple[int, ...]:
    """Check the type and shape of a tensor, with None for any size; returns its shape.

    Raises:
        MamdrError: it is missing or does not match.
    """
    if name not in header:
        raise MamdrError(one_line(f"{file} is damaged: it has no tensor {name}"))
    found_type, found = header[name]
    fits = len(found) == len(shape) and all(want in (None, have) for want, have in zip(shape, found, strict=True))
    if found_type not in ((types,) if isinstance(types, str) else types) or not fits:
        raise_damaged(file, name)
    return found


def raise_damaged(file: Path, name: str) -> NoReturn:
    """Report a tensor of an unexpected type or shape.

    Raises:
        MamdrError: always.
    """
    raise MamdrError(one_line(f"{file} is damaged: its tensor {name} has an unexpected type or shape"))
