"""Lists of names of limited length, for messages."""

from collections.abc import Sequence


def list_first(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many others there are.

    Example:
        >>> list_first(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
