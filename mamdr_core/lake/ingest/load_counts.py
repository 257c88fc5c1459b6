"""Counts of a load's rows by day and rule."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import date

Cell = tuple[date | None, str | None]
"""A day, and the rule that its rows failed (None: valid)."""


@dataclass
class LoadCounts:
    """Numbers of rows by day and rule, and of clicks among valid rows; rows_in = valid + rejected by construction.

    Example:
        >>> counts = LoadCounts()
        >>> counts.add((date(2026, 1, 1), None), 10, 2)
        >>> counts.add((None, "ds_present"), 1)
        >>> counts.rows_in, counts.valid, counts.by_rule, counts.ctr
        (11, 10, {'ds_present': 1}, 0.2)
    """

    rows: Counter[Cell] = field(default_factory=Counter)
    clicks: int = 0

    def add(self, cell: Cell, rows: int, clicks: int = 0) -> None:
        """Add rows of a day and rule, and clicks among valid ones; negative numbers subtract."""
        self.rows[cell] += rows
        if cell[1] is None:
            self.clicks += clicks

    @property
    def rows_in(self) -> int:
        """Number of all rows."""
        return self.rows.total()

    @property
    def valid(self) -> int:
        """Number of rows that failed no rule."""
        return sum(self.valid_by_day.values())

    @property
    def rejected(self) -> int:
        """Number of rows that failed a rule."""
        return sum(self.by_rule.values())

    @property
    def by_rule(self) -> dict[str, int]:
        """Number of rejected rows by rule, in alphabetical order."""
        total = Counter[str]()
        for (_, rule), rows in self.rows.items():
            if rule and rows:
                total[rule] += rows
        return dict(sorted(total.items()))

    @property
    def valid_by_day(self) -> dict[date, int]:
        """Number of valid rows by day, in order."""
        return dict(sorted((day, rows) for (day, rule), rows in self.rows.items() if day and not rule and rows))

    @property
    def days(self) -> set[date | None]:
        """Days of all rows; None: rows without a day."""
        return {day for (day, _), rows in self.rows.items() if rows}

    @property
    def rejected_days(self) -> set[date | None]:
        """Days of rejected rows; None: rows without a day."""
        return {day for (day, rule), rows in self.rows.items() if rule and rows}

    @property
    def ctr(self) -> float | None:
        """Share of clicks among the valid rows; None: there are no valid rows."""
        return self.clicks / self.valid if self.valid else None
