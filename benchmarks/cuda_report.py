"""Writes the results of bench_cuda so far: a Markdown table for each part, and JSON."""

import json
import time
from collections.abc import Callable
from pathlib import Path

Row = dict[str, object]


class Report:
    """Tables, notes and differences by part; written anew after each addition, so that an interrupted run leaves it.

    Args:
        path: of the markdown file; the JSON has the same name with the suffix .json.
        head: the first lines of the markdown file.
    """

    def __init__(self, path: Path, head: str) -> None:
        self._path, self._head = path, head
        self.rows: dict[str, list[Row]] = {}
        self.notes: dict[str, list[str]] = {}
        self.differences: list[str] = []

    def add(self, part: str, row: Row) -> None:
        """Add a row to a part's table."""
        self.rows.setdefault(part, []).append(row)
        print(f"{part}: " + ", ".join(f"{name} {shown(value)}" for name, value in row.items()), flush=True)
        self._write()

    def note(self, part: str, text: str) -> None:
        """Add what else is to be known of a part: what was skipped, and errors."""
        self.notes.setdefault(part, []).append(text)
        print(f"{part}: {text}", flush=True)
        self._write()

    def differ(self, text: str) -> None:
        """Record that numbers are not those of the CPU: the run fails."""
        self.differences.append(text)
        self.note("equality", f"DIFFERENCE: {text}")

    def _write(self) -> None:
        parts = {part: self.rows.get(part, []) for part in [*self.rows, *self.notes]}
        lines = [self._head]
        for part, rows in parts.items():
            lines += ["", f"## {part}", "", *markdown(rows)]
            lines += [f"- {note}" for note in self.notes.get(part, [])]
        self._path.write_text("\n".join(lines) + "\n")
        found = {"parts": parts, "notes": self.notes, "differences": self.differences}
        self._path.with_suffix(".json").write_text(json.dumps(found, indent=1, default=str) + "\n")


def markdown(rows: list[Row]) -> list[str]:
    """A table of rows, with the columns of all of them in the order of their first use; without rows, nothing."""
    if not rows:
        return []
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(shown(row.get(column, "")) for column in columns) + " |" for row in rows]
    return [*lines, ""]


def shown(value: object) -> str:
    """A number to three digits, large ones whole; anything else as text in one cell."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


class Budget:
    """Divides the time of a run among its parts; what a part leaves goes to those after it.

    Args:
        seconds: of the whole run.
        shares: of the parts, in their order, in any unit.
        started: when the run started, by `time.perf_counter`.
    """

    def __init__(self, seconds: float, shares: dict[str, float], started: float) -> None:
        self._end = started + seconds
        self._waiting = dict(shares)
        self._deadline = self._end

    def open(self, part: str) -> float:
        """Begin a part; its seconds."""
        now = time.perf_counter()
        seconds = max(0.0, self._end - now) * self._waiting[part] / max(sum(self._waiting.values()), 1e-9)
        del self._waiting[part]
        self._deadline = now + seconds
        return seconds

    def is_over(self) -> bool:
        """Whether the open part's time is over."""
        return time.perf_counter() >= self._deadline


class Cases:
    """Runs the cases of one part.

    Args:
        part: its name in the report.
        report: where errors and skipped cases are noted.
        budget: of the part.
        release: frees the device's memory after an error.
    """

    def __init__(self, part: str, report: Report, budget: Budget, release: Callable[[], None]) -> None:
        self.part, self._report, self._budget, self._release = part, report, budget, release

    def run(self, name: str, case: Callable[[], Row]) -> bool:
        """Add the row that a case finds; whether it did. An error is noted and does not end the run."""
        if self._budget.is_over():
            self._report.note(self.part, f"{name}: skipped, the time of this part is over")
            return False
        try:
            row = case()
        except Exception as error:
            first = (str(error).strip() or "no message").splitlines()[0]
            self._report.note(self.part, f"{name}: {type(error).__name__}: {first[:300]}")
            self._release()
            return False
        self._report.add(self.part, row)
        return True
