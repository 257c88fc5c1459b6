"""The points of a sweep: what was tried with a method, over its seeds, and which is the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import yaml

from mamdr_core.comparing.cells import Cell, make_cell
from mamdr_core.comparing.figures import spread
from mamdr_core.comparing.measured import RunFigures
from mamdr_core.comparing.running import Ended
from mamdr_core.config import Config
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.runs import cell_of


@dataclass
class Point:
    """Settings that are tried with a method.

    Attributes:
        method: the learning method.
        values: config key to value.
        cells: its runs, one for each seed.
    """

    method: str
    values: dict[str, Any]
    cells: list[Cell] = field(default_factory=list)

    def add_seeds(self, config: Config, seeds: Sequence[int]) -> list[Cell]:
        """Add cells with the seeds that it lacks; returns these.

        Raises:
            MamdrError: a value that its key does not take.
        """
        known = {cell.config.train.seed for cell in self.cells}
        pair = (config.model.name, self.method)
        added = [make_cell(config, pair, seed, self.values, {}) for seed in seeds if seed not in known]
        self.cells += added
        return added


def grid_points(config: Config, methods: Sequence[str]) -> list[Point]:
    """Every combination of the grid's values with every method, each with all seeds.

    Raises:
        MamdrError: a value that its key does not take.
    """
    grid = config.sweep.grid
    points = [
        Point(method, dict(zip(grid, values, strict=True))) for method in methods for values in product(*grid.values())
    ]
    for point in points:
        point.add_seeds(config, config.sweep.seeds)
    return points


def point_rows(
    points: Sequence[Point], pinned: PinnedExamples, ended: Ended, runs: Mapping[str, RunFigures], searched: bool
) -> list[dict[str, Any]]:
    """The figures of each point by column of the table sweeps, in order.

    One point of a method is chosen, or none where every one has a failed seed: by its validation AUC, the mean over
    seeds in a grid, that of the first seed in a search, which runs the others for what it has chosen alone.

    Args:
        points: what was tried.
        pinned: what cells trained on.
        ended: how cells ended.
        runs: figures of those that finished, by run_id.
        searched: whether the points are a search's.

    Returns:
        Also with `score`, what points are chosen by; None for one that failed.
    """
    rows: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    for point in points:
        keys = [cell_of(cell.config, pinned) for cell in point.cells]
        found = [ended.runs[key] for key in keys if key in ended.runs]
        error = next((ended.errors[key] for key in keys if key in ended.errors), None)
        numbers[point.method] = numbers.get(point.method, -1) + 1
        row: dict[str, Any] = {
            "model": point.cells[0].config.model.name,
            "method": point.method,
            "point": numbers[point.method],
            "settings": {key: plain(value) for key, value in point.values.items()},
            "status": "ok" if len(found) == len(keys) else "failed",
            "chosen": False,
            "seeds": len(found),
            "error": error,
            "runs": found,
        }
        for name in ("val_auc", "test_auc"):
            values_S = np.array([getattr(runs[run], name) for run in found])
            if len(values_S) and not np.isnan(values_S).any():
                row |= {name: float(values_S.mean()), f"{name}_std": spread(values_S)}
        row["score"] = None
        if row["status"] == "ok" and row.get("val_auc") is not None:
            row["score"] = runs[found[0]].val_auc if searched else row["val_auc"]
        rows.append(row)
    for method in numbers:
        place = best_place(rows, method)
        if place is not None:
            rows[place]["chosen"] = True
    return rows


def best_place(rows: Sequence[Mapping[str, Any]], method: str) -> int | None:
    """Where the method's row of the best score is, the first of equal ones; None: none has a score."""
    own = [place for place, row in enumerate(rows) if row["method"] == method and row["score"] is not None]
    return max(own, key=lambda place: float(rows[place]["score"]), default=None)


def plain(value: Any) -> str:
    """A value in YAML, on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()
