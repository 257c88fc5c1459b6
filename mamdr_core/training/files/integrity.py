"""Reads saved files whose hashes have been checked: typed values, and one error for content that cannot be read."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError

from mamdr_core.config.yaml_values import one_line
from mamdr_core.runtime.errors import MamdrError

Count = Annotated[int, Field(ge=0)]
_UNREADABLE = (SafetensorError, OSError, LookupError, TypeError, ValueError, OverflowError, RuntimeError)
"""What reading files of another layout raises, by safetensors, JSON, numpy and torch."""


def validate_json(kind: Any, values: Any, file: str | Path) -> Any:
    """Parse the values of a JSON file as `kind`: a model, a dataclass or another type that pydantic knows.

    Raises:
        MamdrError: a key is missing or its value has another type; the message names it.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"])
        raise MamdrError(one_line(f"{file} is damaged: {where}: {found['msg']}")) from None


@contextmanager
def report_unreadable(folder: Path, kind: str) -> Iterator[None]:
    """Report files that cannot be read although their hashes are correct: another version of the code wrote them.

    Raises:
        MamdrError: reading failed.
    """
    try:
        yield
    except _UNREADABLE as error:
        if isinstance(error, torch.OutOfMemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            raise
        reason = one_line(f"{type(error).__name__}: {error}")
        raise MamdrError(
            f"{kind} {folder} is damaged or was written by another version of this code ({reason})"
        ) from error
