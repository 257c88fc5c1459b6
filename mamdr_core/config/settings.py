"""Decorator for classes of settings: frozen, keyword-only, documented, and strict about unknown keys and NaN."""

from dataclasses import dataclass
from typing import Any, TypeVar, cast, dataclass_transform

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Turn `cls` into a frozen dataclass whose fields are read from YAML by `mamdr_core.config.job_config`.

    The string below a field is its documentation in docs/config.md. Limits belong in `__post_init__`, which raises
    ValueError with the offending value. Standard dataclasses let the engine depend on torch only.
    """
    made: Any = dataclass(frozen=True, kw_only=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}
    return cast("type[T]", made)
