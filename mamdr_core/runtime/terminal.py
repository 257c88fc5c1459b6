"""Prints the figures of a job as a table if stderr is a terminal."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

LONGEST = 100
"""Maximum number of characters of a value."""


def show_figures(job: str, figures: Mapping[str, Any], console: Console | None = None) -> None:
    """Print one line per figure to stderr, unless it is a file or a pipe.

    Args:
        job: title of the table.
        figures: figures of the job, as in its JSON.
        console: target; None: stderr.
    """
    console = console or Console(file=sys.stderr)
    if not console.is_terminal:
        return
    table = Table(title=job, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in figures.items():
        table.add_row(escape(name.replace("_", " ")), escape(_shown(value)))
    console.print(table)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping) and all(isinstance(each, int | float) for each in value.values()):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
