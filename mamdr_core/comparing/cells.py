"""The cells of an experiment: one training run each, with a configuration of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mamdr_core.comparing.settings import CompareSettings
from mamdr_core.config import Config, with_values
from mamdr_core.errors import MamdrError
from mamdr_core.learning.methods import METHODS, find_method
from mamdr_core.models.structures import MODELS, find_structure
from mamdr_core.plugins import is_plugin

_OWN = ("model.name", "train.method", "train.seed", "train.days")


@dataclass(frozen=True)
class Cell:
    """One run of an experiment.

    Attributes:
        config: its resolved configuration.
        values: the settings that tell it from the others of its model and method (sweeps).
    """

    config: Config
    values: Mapping[str, Any]

    @property
    def pair(self) -> tuple[str, str]:
        """Its model and method."""
        return self.config.model.name, self.config.train.method

    @property
    def label(self) -> str:
        """What a log line calls it."""
        said = "".join(f" {key}={value}" for key, value in self.values.items())
        return f"{'/'.join(self.pair)}{said} seed {self.config.train.seed}"


def make_cell(
    config: Config, pair: tuple[str, str], seed: int, values: Mapping[str, Any], overrides: Mapping[str, dict[str, Any]]
) -> Cell:
    """A cell of a configuration.

    Args:
        config: what cells have in common.
        pair: model and method.
        seed: of training.
        values: config keys and values of this cell, over `overrides`.
        overrides: by model, by method and by model/method, in this order.

    Raises:
        MamdrError: an unknown key, a value of the wrong kind, or a dry run.
    """
    if config.train.dry_run:
        raise MamdrError("train.dry_run is for train_mamdr: comparisons and sweeps record their runs")
    model, method = pair
    changes: dict[str, Any] = {}  # options are those of the configured structure and method
    if model != config.model.name:
        changes["model.options"] = {}
    if method != config.train.method:
        changes["train.options"] = {}
    for name in (model, method, f"{model}/{method}"):
        changes |= overrides.get(name, {})
    own = {"model.name": model, "train.method": method, "train.seed": seed}
    return Cell(with_values(config, {**changes, **values, **own}), values)


def compared_pairs(config: Config) -> list[tuple[str, str]]:
    """The models and methods that `compare` names, in order.

    Raises:
        MamdrError: an unknown model, method, baseline or name in overrides; the known ones are listed.
    """
    settings = config.compare
    if settings.pairs:
        pairs = [(model, method) for model, _, method in (pair.partition("/") for pair in settings.pairs)]
    else:
        pairs = [(model, method) for model in settings.models or (config.model.name,) for method in settings.methods]
    check_pairs("compare", pairs)
    check_overrides("compare.overrides", settings.overrides, pairs)
    _check_baseline(settings, pairs)
    return list(dict.fromkeys(pairs))


def check_pairs(section: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Check the names of models and methods.

    Raises:
        MamdrError: an unknown one; the known ones are listed.
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


def check_overrides(where: str, overrides: Mapping[str, dict[str, Any]], pairs: Sequence[tuple[str, str]]) -> None:
    """Check what overrides name, and that they leave the examples and the cells' own keys alone.

    Raises:
        MamdrError: a name that is not compared, or a key that a cell must not change.
    """
    names = list(dict.fromkeys([name for pair in pairs for name in (*pair, "/".join(pair))]))
    for name, changes in overrides.items():
        if name not in names:
            raise MamdrError(f"{where}: {name} is not among what is compared: {', '.join(names)}")
        check_keys(f"{where}.{name}", changes)


def check_keys(where: str, keys: Mapping[str, Any]) -> None:
    """Check that cells may change these config keys.

    Raises:
        MamdrError: they may not: all cells use the same examples, and each its own model, method and seed.
    """
    for key in keys:
        if key in _OWN or not key.startswith(("model.", "train.")):
            raise MamdrError(f"{where}: {key} cannot be set for a cell; give keys of model and train but {_OWN}")


def _check_baseline(settings: CompareSettings, pairs: Sequence[tuple[str, str]]) -> None:
    known = dict.fromkeys([*(method for _, method in pairs), *("/".join(pair) for pair in pairs)])
    if settings.baseline not in known:
        raise MamdrError(f"compare.baseline {settings.baseline!r} is not compared; give one of {', '.join(known)}")


def baseline_of(pair: tuple[str, str], baseline: str) -> tuple[str, str]:
    """The model and method that a pair is tested against."""
    model, slash, method = baseline.partition("/")
    return (model, method) if slash else (pair[0], baseline)
