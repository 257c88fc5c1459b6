"""Points of a sweep: settings of a method with one trial per seed, and the choice of the best point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import yaml

from mamdr_core.config.job_config import Config
from mamdr_core.experiments.figures import spread
from mamdr_core.experiments.measured import RunFigures
from mamdr_core.experiments.running import TrialOutcomes
from mamdr_core.experiments.trials import Trial, make_trial
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.runs import fingerprint_of


@dataclass
class Point:
    """Settings of a method, as values of config keys, evaluated by one trial per seed."""

    method: str
    values: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)

    def add_seeds(self, config: Config, seeds: Sequence[int]) -> list[Trial]:
        """Add and return trials for the seeds that are missing.

        Raises:
            MamdrError: a value that its key or the method does not accept.
        """
        known = {trial.config.train.seed for trial in self.trials}
        pair = (config.model.name, self.method)
        added = [make_trial(config, pair, seed, self.values, {}) for seed in seeds if seed not in known]
        self.trials += added
        return added


def grid_points(config: Config, methods: Sequence[str]) -> list[Point]:
    """Every combination of the values in the grid with every method and all seeds.

    Raises:
        MamdrError: a value that its key or a method does not accept.
    """
    grid = config.sweep.grid
    points = [
        Point(method, dict(zip(grid, values, strict=True))) for method in methods for values in product(*grid.values())
    ]
    for point in points:
        point.add_seeds(config, config.sweep.seeds)
    return points


def point_rows(
    points: Sequence[Point],
    pinned: PinnedExamples,
    outcomes: TrialOutcomes,
    runs: Mapping[str, RunFigures],
    searched: bool,
) -> list[dict[str, Any]]:
    """The columns of the table sweeps for each point, in order.

    For each method the point with the highest validation AUC is chosen among those without a failed seed. A grid uses
    the mean over seeds; a search uses the first seed, since only its chosen points are run with the other seeds.

    Args:
        runs: figures of the finished trials by run_id.
        searched: whether the points come from a search.

    Returns:
        The rows, with the additional key `score`, by which points are chosen; None for a failed point.
    """
    rows: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    for point in points:
        keys = [fingerprint_of(trial.config, pinned) for trial in point.trials]
        found = [outcomes.runs[key] for key in keys if key in outcomes.runs]
        error = next((outcomes.errors[key] for key in keys if key in outcomes.errors), None)
        numbers[point.method] = numbers.get(point.method, -1) + 1
        row: dict[str, Any] = {
            "model": point.trials[0].config.model.name,
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
    """Index of the first row of the method with the highest score; None if no row has a score."""
    own = [place for place, row in enumerate(rows) if row["method"] == method and row["score"] is not None]
    return max(own, key=lambda place: float(rows[place]["score"]), default=None)


def plain(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()
