"""Two trees of settings compared, for errors that say what differs."""

from collections.abc import Iterator, Mapping
from typing import Any


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Keys that have different values, one line each.

    Example:
        >>> differences({"dr": {"k": 3}}, {"dr": {"k": 5}})
        ['dr.k is 3, and was 5']
    """
    flat, flat_theirs = dict(_flat(ours)), dict(_flat(theirs))
    return [
        f"{name} is {flat.get(name)}, and was {flat_theirs.get(name)}"
        for name in flat | flat_theirs
        if flat.get(name) != flat_theirs.get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
