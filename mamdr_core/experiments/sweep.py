"""sweep on the driver: points of a grid or a search, then a comparison of the best point of each method."""

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config, plain_config
from mamdr_core.experiments.compare import digest, nothing_finished, write_comparison
from mamdr_core.experiments.measured import read_measured
from mamdr_core.experiments.plots import plot_grid
from mamdr_core.experiments.points import Point, best_place, grid_points, point_rows
from mamdr_core.experiments.report import latex, markdown, sweep_sheets
from mamdr_core.experiments.running import Runner, TrialOutcomes
from mamdr_core.experiments.search import search_points, space_of
from mamdr_core.experiments.trials import check_keys, check_pairs
from mamdr_core.lake.core.few import declared_frame
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import as_path
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.files.folders import staged
from mamdr_core.training.parents import resolve_parent
from mamdr_core.training.preparing import prepare_examples
from mamdr_core.training.runs import fingerprint_of

logger = logging.getLogger(__name__)


def sweep(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Try settings of each method, choose the best by validation AUC, and compare the methods over the seeds.

    Returns:
        sweep, points, done (trials run now), skipped (finished before), failed, examples_version, report (the Markdown
        file), and `best`: by method, its settings, val_auc and test_auc.

    Raises:
        MamdrError: as `check_sweep`, before examples are read; no examples; no trial finished.
    """
    config, settings = resolve_parent(spark, config), config.sweep
    methods = settings.methods or (config.train.method,)
    check_sweep(config, methods)
    points = [] if settings.trials else grid_points(config, methods)
    lake, pinned, _ = prepare_examples(spark, config)
    name = settings.name or "sweep-" + digest([str(_identity(config)), str(pinned.versions)])
    runner = Runner(lake, pinned, name, settings.parallel)
    outcomes = TrialOutcomes()
    if settings.trials:
        points = _search(runner, config, methods, pinned, lake, outcomes)
    else:
        outcomes.add(runner.run([trial for point in points for trial in point.trials]))
    if not outcomes.runs:
        raise nothing_finished(name, outcomes)
    rows, best = _write_sweep(lake, pinned, config, name, points, outcomes)
    trials = [trial for point in best for trial in point.trials]
    baseline = "joint" if "joint" in methods else best[0].method
    write_comparison(lake, pinned, name, trials, outcomes, baseline, config.compare.largest)
    reported = ("settings", "val_auc", "test_auc")
    return {
        "sweep": name,
        "points": len(points),
        **outcomes.figures(),
        "examples_version": pinned.versions["examples"],
        "report": lake.path_of("reports", name, "sweep.md"),
        "best": {row["method"]: {key: row.get(key) for key in reported} for row in rows if row["chosen"]},
    }


def _identity(config: Config) -> dict[str, Any]:
    """The settings that distinguish one sweep from another."""
    plain = plain_config(config)
    return {section: plain[section] for section in ("features", "model", "train")} | {
        "sweep": {key: value for key, value in plain["sweep"].items() if key != "parallel"}
    }


def check_sweep(config: Config, methods: Sequence[str]) -> None:
    """Check the settings of a sweep.

    Raises:
        MamdrError: an unknown name or key, a value that its key or a method does not accept, or nothing to try.
    """
    settings = config.sweep
    check_pairs("sweep", [(config.model.name, method) for method in methods])
    check_keys("sweep.grid", settings.grid)
    check_keys("sweep.space", settings.space)
    for method, space in settings.method_space.items():
        if method not in methods:
            raise MamdrError(f"sweep.method_space: {method} is not in sweep.methods: {', '.join(methods)}")
        check_keys(f"sweep.method_space.{method}", space)
    if not settings.grid and not settings.trials:
        raise MamdrError("sweep has no points: set sweep.grid, or sweep.trials and sweep.space")
    if settings.trials and not settings.space and set(settings.method_space) != set(methods):
        raise MamdrError("sweep.trials needs sweep.space, or a sweep.method_space for every method")
    for method in methods if settings.trials else ():
        ranges = {key: space.choices or (space.low, space.high) for key, space in space_of(settings, method).items()}
        first = {key: values[0] for key, values in ranges.items()}
        for changed in [{}, *({key: value} for key, values in ranges.items() for value in values[1:])]:
            Point(method, first | changed).add_seeds(config, settings.seeds[:1])  # raises for what cannot be tried


def _search(
    runner: Runner, config: Config, methods: Sequence[str], pinned: PinnedExamples, lake: Lake, outcomes: TrialOutcomes
) -> list[Point]:
    """Search, then run the best point of each method with all seeds."""

    def evaluate(points: list[Point]) -> list[float | None]:
        trials = [trial for point in points for trial in point.add_seeds(config, config.sweep.seeds[:1])]
        outcomes.add(runner.run(trials, outcomes))
        return [row["score"] for row in _rows(lake, pinned, points, outcomes, searched=True)]

    points = search_points(config.sweep, methods, evaluate)
    while True:
        rows = _rows(lake, pinned, points, outcomes, searched=True)
        best = [points[place] for method in methods if (place := best_place(rows, method)) is not None]
        trials = [trial for point in best for trial in point.add_seeds(config, config.sweep.seeds)]
        if not trials:
            return points
        # If a seed fails, the next iteration chooses the next best point.
        outcomes.add(runner.run(trials, outcomes))


def _rows(
    lake: Lake, pinned: PinnedExamples, points: Sequence[Point], outcomes: TrialOutcomes, searched: bool
) -> list[dict[str, Any]]:
    keys = {fingerprint_of(trial.config, pinned) for point in points for trial in point.trials}
    runs = sorted({outcomes.runs[key] for key in keys if key in outcomes.runs})
    measured = read_measured(lake, runs, len(pinned.domain_ids)).runs if runs else {}
    return point_rows(points, pinned, outcomes, measured, searched)


def _write_sweep(
    lake: Lake,
    pinned: PinnedExamples,
    config: Config,
    name: str,
    points: Sequence[Point],
    outcomes: TrialOutcomes,
) -> tuple[list[dict[str, Any]], list[Point]]:
    """Write the points to the table sweeps, stderr and reports/<name>/; returns the rows and the best points."""
    grid = config.sweep.grid
    rows = _rows(lake, pinned, points, outcomes, bool(config.sweep.trials))
    made = {"sweep": name, "examples_version": pinned.versions["examples"], "made_at": datetime.now(UTC)}
    frame = declared_frame(lake.spark, "sweeps", [made | row for row in rows])
    lake.overwrite_where("sweeps", frame, f"sweep = {literal(name)}")
    sheets = sweep_sheets(rows, grid)
    text = markdown(name, sheets)
    with staged(as_path(lake.path_of("reports", name))) as folder:
        (folder / "sweep.md").write_text(text, encoding="utf-8")
        (folder / "sweep.tex").write_text(latex(name, sheets), encoding="utf-8")
        for figure in plot_grid(rows, grid, folder):
            logger.info("%s: figure %s", name, lake.path_of("reports", name, figure.name))
    print(text, file=sys.stderr)
    best = [point for point, row in zip(points, rows, strict=True) if row["chosen"]]
    if not best:
        raise MamdrError(f"{name}: no point finished with every seed; see the errors in the table sweeps")
    return rows, best
