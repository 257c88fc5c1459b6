"""Finds users in the raw text of rejected rows, which need not be parseable as clicks."""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

_PLAIN = re.compile(r"[^\W\d]\w*|`[^`]+`")


def plain_column(expression: str) -> str | None:
    """The column if an expression is a plain column name, otherwise None.

    Example:
        >>> plain_column("`user id`"), plain_column("concat('u', uid)")
        ('user id', None)
    """
    return expression.strip().strip("`") if _PLAIN.fullmatch(expression.strip()) else None


def users_of(row: str, column: str | None, users: Collection[str]) -> list[str]:
    """The users to whom a rejected row may belong.

    Args:
        row: the raw row as JSON, or the text of a malformed line.
        column: column of the raw log with the user; if it is None or missing in the row, every value of the row is
            compared. In text that is not JSON, any substring counts.
        users: the ids to search for.
    """
    try:
        read: Any = json.loads(row, object_pairs_hook=_JsonObject, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return [user for user in users if user in row or json.dumps(user)[1:-1] in row]
    if column and isinstance(read, _JsonObject):
        # Spark ignores the case of a column's name.
        own = [value for name, value in read if name.lower() == column.lower()]
        read = own or read
    values = set(_values(read))
    return [user for user in users if user in values]


class _JsonObject(list[tuple[str, Any]]):
    """A JSON object with duplicate names."""


def _values(read: Any) -> Iterator[str]:
    """The text of every value, with numbers as written."""
    if isinstance(read, _JsonObject):
        read = [value for _, value in read]
    if isinstance(read, list):
        for value in read:
            yield from _values(value)
    elif isinstance(read, bool):
        yield str(read).lower()
    elif read is not None:
        yield read
