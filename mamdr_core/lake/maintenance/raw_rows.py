"""Which users a rejected row is about: its raw text is read, since it need not be a row of clicks."""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

_PLAIN = re.compile(r"[^\W\d]\w*|`[^`]+`")


def plain_column(expression: str) -> str | None:
    """The column that an expression names, None where it is more than a name.

    Example:
        >>> plain_column("`user id`"), plain_column("concat('u', uid)")
        ('user id', None)
    """
    return expression.strip().strip("`") if _PLAIN.fullmatch(expression.strip()) else None


def users_of(row: str, column: str | None, users: Collection[str]) -> list[str]:
    """Those of some users that a rejected row may be about.

    Args:
        row: the raw row as JSON, or a malformed line as it is.
        column: of the raw log, which holds the user; where it is None, or the row has no such column, every value of
            the row counts. Of a line that is not JSON, every part of it counts.
        users: ids that are looked for.
    """
    try:
        read: Any = json.loads(row, object_pairs_hook=_Pairs, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return [user for user in users if user in row or json.dumps(user)[1:-1] in row]
    if column and isinstance(read, _Pairs):
        # Spark ignores the case of a column's name.
        own = [value for name, value in read if name.lower() == column.lower()]
        read = own or read
    values = set(_values(read))
    return [user for user in users if user in values]


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON, names that repeat included."""


def _values(read: Any) -> Iterator[str]:
    """The text of every value, numbers as they were written."""
    if isinstance(read, _Pairs):
        read = [value for _, value in read]
    if isinstance(read, list):
        for value in read:
            yield from _values(value)
    elif isinstance(read, bool):
        yield str(read).lower()
    elif read is not None:
        yield read
