"""Decorator for classes of settings: frozen, keyword-only, documented, and strict about unknown keys and NaN."""

import math
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


def check_limits(values: object, section: str, *names: str, least: float, most: float = math.inf) -> None:
    """Raise ValueError for a field, unless None, that is below `least` or above `most`."""
    for name in names:
        value = getattr(values, name)
        if value is not None and not least <= value <= most:
            wanted = f">= {least}" if most == math.inf else f"in [{least}, {most}]"
            raise ValueError(f"{section}.{name} must be {wanted}, got {value}")
