"""Printable tables of a sweep: its points and, for a grid of two keys, the layout of Table 11 of the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

from mamdr_core.experiments.points import plain
from mamdr_core.experiments.report import Sheet, name_of, shown, with_spread

Row = Mapping[str, Any]


def sweep_sheets(rows: Sequence[Row], grid: Mapping[str, Sequence[Any]]) -> list[Sheet]:
    """Tables of the points of a sweep; the chosen points are bold.

    Args:
        rows: rows of the table sweeps.
        grid: config keys and their values; empty for a search.
    """
    sheets = []
    for name in dict.fromkeys(name_of(row) for row in rows):
        own = [row for row in rows if name_of(row) == name]
        if len(grid) == 2:
            sheets.append(_square(name, own, grid))
        sheets.append(_points(name, own))
    return sheets


def _points(name: str, rows: Sequence[Row]) -> Sheet:
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    body = [
        [
            str(row["point"]),
            *(row["settings"].get(key, "-") for key in keys),
            with_spread(row.get("val_auc"), row.get("val_auc_std")),
            with_spread(row.get("test_auc"), row.get("test_auc_std")),
            str(row["seeds"]),
            row["status"],
        ]
        for row in rows
    ]
    column = len(keys) + 1
    best = frozenset((place, column) for place, row in enumerate(rows) if row["chosen"])
    return Sheet(f"{name}, chosen by validation AUC", ["Point", *keys, "val AUC", "test AUC", "seeds", ""], body, best)


def _square(name: str, rows: Sequence[Row], grid: Mapping[str, Sequence[Any]]) -> Sheet:
    across, down = grid
    columns, lines = ([plain(value) for value in grid[key]] for key in (across, down))
    found = {(row["settings"][down], row["settings"][across]): row for row in rows}
    body = [[line, *(shown(found[line, column].get("test_auc")) for column in columns)] for line in lines]
    best = frozenset(
        (place, number)
        for place, line in enumerate(lines)
        for number, column in enumerate(columns, 1)
        if found[line, column]["chosen"]
    )
    return Sheet(f"{name}: test AUC by {across} (across) and {down} (down)", [down, *columns], body, best)
