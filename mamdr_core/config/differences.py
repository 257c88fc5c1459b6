"""Flattens trees of settings and lists their differences for error messages."""

from collections.abc import Iterator, Mapping
from typing import Any


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Keys with different values, one line each.

    Example:
        >>> differences({"dr": {"k": 3}}, {"dr": {"k": 5}})
        ['dr.k is 3, and was 5']
    """
    flat, flat_theirs = dict(flat_keys(ours)), dict(flat_keys(theirs))
    return [
        f"{name} is {flat.get(name)}, and was {flat_theirs.get(name)}"
        for name in flat | flat_theirs
        if flat.get(name) != flat_theirs.get(name)
    ]


def flat_keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a tree, with their keys joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
