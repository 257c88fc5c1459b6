"""Quotes names and values for SQL text. Where Spark accepts a bound value or a column, use that instead."""


def identifier(name: str) -> str:
    """A name quoted for SQL.

    Example:
        >>> identifier("it`s")
        '`it``s`'
    """
    return f"`{name.replace('`', '``')}`"


def literal(text: str) -> str:
    r"""A text quoted for SQL.

    Example:
        >>> print(literal("it's"))
        'it\'s'
    """
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
