"""Parses untrusted YAML: only text, numbers, dates, lists and mappings of bounded size."""

import math
import re
from datetime import date
from typing import Any

import yaml

from mamdr_core.runtime.errors import MamdrError

DEPTH, NODES, WIDEST = 20, 200_000, 1 << 63
WIDEST_MERGE = 10_000
"""Maximum number of keys of a mapping after merge keys are expanded."""
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
"""NUL, and surrogates, which UTF-8 cannot encode."""
# PyYAML raises these for tagged values and for values that only look like a date or a number.
_SLIPS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that rejects duplicate keys, and merge keys (`<<`) that expand to too many keys."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._merged: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check the keys of a mapping before merge keys are expanded, and its size afterwards."""
        seen = set()
        # A mapping that others merge is visited again, with the keys that have been merged into it.
        own = node.value if id(node) not in self._merged else ()
        self._merged.add(id(node))
        for key, _ in own:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {shorten(key.value)} is given twice", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        super().flatten_mapping(node)
        if len(node.value) > WIDEST_MERGE:
            raise yaml.constructor.ConstructorError(
                problem=f"merge keys give more than {WIDEST_MERGE:,} keys", problem_mark=node.start_mark
            )


def parse_yaml(text: str, where: str) -> Any:
    """Parse a YAML text of plain values; `where` names its source in error messages.

    Raises:
        MamdrError: the text is not valid YAML, or contains values that `check_plain` rejects.

    Example:
        >>> parse_yaml("{k: 5, since: 2026-01-02}", "--set train.dr")
        {'k': 5, 'since': datetime.date(2026, 1, 2)}
    """
    try:
        values = _Loader(text).get_single_data()
    except (yaml.YAMLError, *_SLIPS) as error:
        raise MamdrError(f"{where}: not valid YAML ({_problem(error)})") from None
    check_plain(values, where)
    return values


def _problem(error: Exception) -> str:
    """Description of an error without the text itself, which may contain a password."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return one_line(error)
    where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
    return one_line(f"{error.problem or error.context}{where}")


def check_plain(values: Any, where: str) -> None:
    """Check that a tree contains only JSON values and dates, and that it is finite.

    Raises:
        MamdrError: NaN or infinity, an integer beyond 64 bits, text that cannot be written to a file, a value of
            another type, a key that is neither text nor a number, or a tree that is too deep or too large (YAML's
            aliases can create infinite trees).
    """
    left = [NODES]

    def visit(value: Any, path: tuple[str, ...]) -> None:
        left[0] -= 1
        if len(path) > DEPTH or left[0] < 0:
            raise MamdrError(f"{where}: nested more than {DEPTH} deep, or more than {NODES:,} values")
        if trouble := _trouble(value):
            raise MamdrError(f"{where}: {one_line('.'.join(path)) or 'the value'} {trouble}")
        if isinstance(value, dict):
            for key, inner in value.items():
                # PyYAML cannot read back all other keys that it writes.
                named = isinstance(key, str | int | float) and not isinstance(key, bool) and str(key).isprintable()
                if not named or _trouble(key):
                    raise MamdrError(f"{where}: the key {shorten(key)} is neither a name nor a number")
                visit(inner, (*path, str(key)))
        elif isinstance(value, list | tuple):
            for number, inner in enumerate(value):
                visit(inner, (*path, str(number)))

    visit(values, ())


def _trouble(value: Any) -> str:
    """Problem of a value; empty: none."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}: give a finite number"
    if isinstance(value, int) and not -WIDEST <= value < WIDEST:
        return "is an integer of more than 64 bits"
    if isinstance(value, str) and _NOT_TEXT.search(value):
        return f"is text with characters that cannot be written to a file: {shorten(value)}"
    if value is None or isinstance(value, str | int | float | date | list | tuple | dict):
        return ""
    return f"is of the type {type(value).__name__}, which no key accepts"


def shorten(value: object) -> str:
    """A value on one line and of limited length, for error messages."""
    shown = one_line(ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value))
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def one_line(message: object) -> str:
    """A message on one line, with characters that a terminal can print."""
    return " ".join(str(message).split()).encode("utf-8", "backslashreplace").decode()
