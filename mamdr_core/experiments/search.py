"""Bayesian search of settings (Optuna's TPE) with an equal number of trials for every method.

The search sees only validation AUCs. The same seed and outcomes give the same draws, so a search that is started again
repeats its earlier trials, which are answered from the recorded runs.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from mamdr_core.config.experiments import SpaceSettings, SweepSettings
from mamdr_core.experiments.points import Point

logger = logging.getLogger(__name__)


def search_points(
    settings: SweepSettings, methods: Sequence[str], evaluate: Callable[[list[Point]], list[float | None]]
) -> list[Point]:
    """Search the space of each method with `trials` trials.

    Methods advance together, so that their trials can run in parallel, but each search uses only its own trials.

    Args:
        evaluate: returns the validation AUC of each point; None for a failed point.

    Returns:
        All points, by method, in the order in which they were drawn.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies = {
        method: optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=settings.seed))
        for method in methods
    }
    spaces = {method: space_of(settings, method) for method in methods}
    points: dict[str, list[Point]] = {method: [] for method in methods}
    for first in range(0, settings.trials, settings.batch):
        size = min(settings.batch, settings.trials - first)
        drawn = [(method, studies[method].ask()) for method in methods for _ in range(size)]
        tried = [Point(method, _draw(trial, spaces[method])) for method, trial in drawn]
        for (method, trial), point, auc in zip(drawn, tried, evaluate(tried), strict=True):
            points[method].append(point)
            if auc is None:
                # Not FAIL: the sampler ignores failed trials, but ranks pruned ones below all others and avoids them.
                studies[method].tell(trial, state=TrialState.PRUNED)
            else:
                studies[method].tell(trial, auc)
        known = {
            method: [trial.value for trial in study.trials if trial.value is not None]
            for method, study in studies.items()
        }
        best = ", ".join(f"{method} {max(values):.4f}" for method, values in known.items() if values)
        logger.info("%d/%d trials of each method | best val AUC: %s", first + size, settings.trials, best or "none")
    return [point for method in methods for point in points[method]]


def space_of(settings: SweepSettings, method: str) -> Mapping[str, SpaceSettings]:
    """The search space of a method."""
    return {**settings.space, **settings.method_space.get(method, {})}


def _draw(trial: Trial, space: Mapping[str, SpaceSettings]) -> dict[str, Any]:
    return {key: _suggest(trial, key, each) for key, each in space.items()}


def _suggest(trial: Trial, key: str, space: SpaceSettings) -> Any:
    low, high = space.low, space.high
    if low is None or high is None:
        return space.choices[trial.suggest_categorical(key, list(range(len(space.choices))))]
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=space.log)
    return trial.suggest_float(key, low, high, log=space.log)
