"""Names and values in SQL text; wherever Spark takes a bound value or a column, give it that instead."""


def identifier(name: str) -> str:
    """A name as SQL writes it, whatever it holds.

    Example:
        >>> identifier("it`s")
        '`it``s`'
    """
    return f"`{name.replace('`', '``')}`"


def table_at(path: str) -> str:
    """The Delta table in a folder, as SQL names it."""
    return f"delta.{identifier(path)}"


def literal(text: str) -> str:
    r"""A text as SQL writes it, whatever it holds.

    Example:
        >>> print(literal("it's"))
        'it\'s'
    """
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
