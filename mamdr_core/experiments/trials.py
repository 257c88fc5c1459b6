"""Trials of an experiment: one training run each, with its own configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mamdr_core.config.job_config import Config, with_values
from mamdr_core.learning.methods import METHODS, find_method
from mamdr_core.models.structures import MODELS, find_structure
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.plugins import is_plugin
from mamdr_core.training.preparing import check_names

_TRIAL_KEYS = ("model.name", "train.method", "train.seed", "train.days")


@dataclass(frozen=True)
class Trial:
    """One training run of an experiment; trials of one model and method differ in their `values` (sweeps)."""

    config: Config
    values: Mapping[str, Any]

    @property
    def pair(self) -> tuple[str, str]:
        """Model and method."""
        return self.config.model.name, self.config.train.method

    @property
    def label(self) -> str:
        """Name in log messages."""
        settings = "".join(f" {key}={value}" for key, value in self.values.items())
        return f"{'/'.join(self.pair)}{settings} seed {self.config.train.seed}"


def make_trial(
    config: Config, pair: tuple[str, str], seed: int, values: Mapping[str, Any], overrides: Mapping[str, dict[str, Any]]
) -> Trial:
    """Derive a trial from a configuration.

    Args:
        config: shared by all trials.
        pair: model and method.
        values: config keys and values of this trial; they take precedence over `overrides`.
        overrides: by model, by method and by model/method, applied in this order.

    Raises:
        MamdrError: an unknown key, a value of the wrong type, a dry run, or a setting that the method does not support.
    """
    if config.train.dry_run:
        raise MamdrError("train.dry_run works only in train_mamdr: comparisons and sweeps record their runs")
    model, method = pair
    changes: dict[str, Any] = {}  # options apply only to the configured structure and method
    if model != config.model.name:
        changes["model.options"] = {}
    if method != config.train.method:
        changes["train.options"] = {}
    for name in (model, method, f"{model}/{method}"):
        changes |= overrides.get(name, {})
    identity = {"model.name": model, "train.method": method, "train.seed": seed}
    trial = Trial(with_values(config, {**changes, **values, **identity}), values)
    check_names(trial.config)
    return trial


def compared_pairs(config: Config) -> list[tuple[str, str]]:
    """The pairs of model and method that `compare` selects, in order.

    Raises:
        MamdrError: an unknown model, method, baseline or name in overrides (the message lists the known ones), or a key
            in overrides that a trial must not change.
    """
    settings = config.compare
    if settings.pairs:
        pairs = [(model, method) for model, _, method in (pair.partition("/") for pair in settings.pairs)]
    else:
        pairs = [(model, method) for model in settings.models or (config.model.name,) for method in settings.methods]
    check_pairs("compare", pairs)
    names = dict.fromkeys(name for pair in pairs for name in (*pair, "/".join(pair)))
    for name, changes in settings.overrides.items():
        if name not in names:
            raise MamdrError(f"compare.overrides: {name} is not compared; known: {', '.join(names)}")
        check_keys(f"compare.overrides.{name}", changes)
    known = dict.fromkeys([*(method for _, method in pairs), *("/".join(pair) for pair in pairs)])
    if settings.baseline not in known:
        raise MamdrError(f"compare.baseline {settings.baseline!r} is not compared; give one of {', '.join(known)}")
    return list(dict.fromkeys(pairs))


def check_pairs(section: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Check the names of models and methods.

    Raises:
        MamdrError: an unknown name; the message lists the known ones.
    """
    for kind, known, names in (
        ("model", sorted(MODELS), [model for model, _ in pairs]),
        ("method", list(METHODS), [method for _, method in pairs]),
    ):
        unknown = list(dict.fromkeys(name for name in names if name not in known and not is_plugin(name)))
        if unknown:
            raise MamdrError(f"{section}: unknown {kind} {', '.join(unknown)}; known: {', '.join(known)}")
    for model, method in pairs:
        try:
            find_structure(model)
            find_method(method)
        except MamdrError as error:
            raise MamdrError(f"{section}: {error}") from error


def check_keys(where: str, keys: Mapping[str, Any]) -> None:
    """Check that trials may change these config keys.

    Raises:
        MamdrError: a key outside `model` and `train`, or one that identifies a trial: model, method, seed and days.
    """
    for key in keys:
        if key in _TRIAL_KEYS or not key.startswith(("model.", "train.")):
            raise MamdrError(f"{where}: {key} cannot be set for a trial; use keys of model and train but {_TRIAL_KEYS}")


def baseline_of(pair: tuple[str, str], baseline: str) -> tuple[str, str]:
    """The model and method that serve as the baseline of a pair."""
    model, slash, method = baseline.partition("/")
    return (model, method) if slash else (pair[0], baseline)
