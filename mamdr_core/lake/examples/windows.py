"""The window of a version of the examples: its days and, if days decide the split, the days of each split."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.lake import ExamplesSettings
from mamdr_core.lake.core.tables import Lake
from schemas import SPLITS

Limits = tuple[date | None, date | None]
"""First and last day; None: no limit."""
_DAY = timedelta(1)


@dataclass(frozen=True)
class Window:
    """The days of a version of the examples.

    Attributes:
        first: first day; None: no limit.
        val_from: first day of val, if the window decides the split.
        test_from: first day of test; None: the table has a column `split`.
    """

    first: date | None = None
    val_from: date | None = None
    test_from: date | None = None

    @property
    def decides_split(self) -> bool:
        """Whether a row's day decides its split; the table then has no column `split`."""
        return self.test_from is not None

    def limits(self, split: str, train_days: int = 0) -> Limits:
        """The days of a split; the last split has no end, because the table has no rows after `examples.until`.

        Args:
            split: train, val or test.
            train_days: number of newest days of train, if the window decides the split; 0: all days.
        """
        if not (self.val_from and self.test_from):
            return self.first, None
        if split == "test":
            return self.test_from, None
        if split == "val":
            return self.val_from, self.test_from - _DAY
        newest = self.val_from - timedelta(train_days) if train_days else None
        return max(filter(None, (self.first, newest)), default=None), self.val_from - _DAY

    def noted(self) -> dict[str, str | None]:
        """The window as JSON values for a commit's note."""
        days = {"first": self.first, "val_from": self.val_from, "test_from": self.test_from}
        return {name: day.isoformat() if day else None for name, day in days.items()}


def window_of(settings: ExamplesSettings, newest: date) -> Window:
    """The window according to the settings; `newest`, the newest day of the examples, is used if `until` is not set."""
    last = settings.until or newest
    first = last - timedelta(settings.days - 1) if settings.days else None
    if not settings.split.moves:
        return Window(first)
    test_from = last - timedelta(settings.split.test_days - 1)
    return Window(first, test_from - timedelta(settings.split.val_days), test_from)


def window_at(lake: Lake, version: int) -> Window:
    """The window of a version of the examples; without limits if its note has none."""
    found = lake.log("examples").newest_note("window", version)
    return noted_window(found[1]) if found else Window()


def noted_window(note: dict[str, Any]) -> Window:
    """The window in a commit's note."""
    return Window(**{name: date.fromisoformat(day) if day else None for name, day in note["window"].items()})


def read_window(lake: Lake, version: int, window: Window | None = None, train_days: int = 0) -> DataFrame:
    """The rows of a version's window, or of the given one, with `split`; `train_days` as in `Window.limits`."""
    split, chosen = window_sql(window_at(lake, version) if window is None else window, train_days)
    examples = lake.read("examples", version).where(chosen)
    return examples.withColumn("split", F.expr(split)) if split else examples


def window_sql(window: Window, train_days: int = 0) -> tuple[str, str]:
    """SQL over examples: an expression of the split, empty if it is a column, and a condition of the window's rows."""
    if not window.decides_split:
        return "", in_days(window.limits("train"))
    within = {split: in_days(window.limits(split, train_days)) for split in SPLITS}
    cases = " ".join(f"WHEN {condition} THEN '{split}'" for split, condition in within.items())
    return f"CASE {cases} END", " OR ".join(within.values())


def in_days(limits: Limits) -> str:
    """The condition of rows between two days, in SQL."""
    compared = zip((">=", "<="), limits, strict=True)
    parts = [f"ds {sign} DATE'{day}'" for sign, day in compared if day]
    return f"({' AND '.join(parts)})" if parts else "true"
