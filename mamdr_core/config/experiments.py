"""Settings of comparisons, sweeps, gradient conflict and feature importance."""

import re
from dataclasses import field
from typing import Any, Literal

from mamdr_core.config.settings import check_limits, settings


@settings
class CompareSettings:
    """Which trials are compared: models x methods x seeds."""

    name: str = ""
    """Name of the comparison in the table comparisons and in its files; empty: derived from the trials."""
    models: tuple[str, ...] = ()
    """Model structures; empty: model.name."""
    methods: tuple[str, ...] = ("joint", "mamdr")
    """Learning methods."""
    pairs: tuple[str, ...] = ()
    """Pairs model/method: exactly these are compared, instead of every method with every model."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Values of train.seed for each model and method."""
    baseline: str = "joint"
    """Baseline of the paired tests: a method, applied per model, or one model/method for all."""
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Config keys and values by model, by method or by model/method, such as `mamdr: {train.dr.k: 5}`; method takes
    precedence over model, and model/method over both."""
    parallel: int = 0
    """Maximum number of trials that run in parallel if train.ranks is 1; 0: the number of Spark slots."""
    largest: int = 10
    """Number of domains with the most training rows whose AUC the report lists individually."""

    def __post_init__(self) -> None:
        check_name("compare.name", self.name)
        for key in ("methods", "seeds"):
            check_distinct(f"compare.{key}", getattr(self, key))
        check_limits(self, "compare", "parallel", "largest", least=0)
        for pair in self.pairs:
            if pair.count("/") != 1:
                raise ValueError(f"compare.pairs: expected model/method, got {pair!r}")


@settings
class SpaceSettings:
    """Search space of a config key: a range or a list of values."""

    low: int | float | None = None
    """Lower bound, together with `high`; if both are integers, the value is an integer."""
    high: int | float | None = None
    """Upper bound."""
    log: bool = False
    """Search on a logarithmic scale."""
    choices: tuple[Any, ...] = ()
    """List of values, instead of a range."""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if len(bounds) != (0 if self.choices else 2):
            raise ValueError("a space needs either low and high, or choices")
        low, high = bounds or (1, 2)
        if not low < high or (self.log and low <= 0):
            raise ValueError(f"a space needs low < high, above 0 with log, got {self.low} and {self.high}")


@settings
class SweepSettings:
    """Which settings are tried: a grid, or a search with the same budget for every method."""

    name: str = ""
    """Name of the sweep in the tables sweeps and comparisons and in its files; empty: derived from the settings."""
    methods: tuple[str, ...] = ()
    """Learning methods; empty: train.method."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Values of train.seed for every point of a grid, and for the best point of a search."""
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Config keys and their values: every combination is tried."""
    trials: int = 0
    """Number of trials of the search per method, each one run with the first seed; 0: use the grid."""
    space: dict[str, SpaceSettings] = field(default_factory=dict)
    """Search space by config key."""
    method_space: dict[str, dict[str, SpaceSettings]] = field(default_factory=dict)
    """Search space of a single method, in addition to `space` or replacing its keys."""
    batch: int = 1
    """Number of trials of a method that are drawn together; they can run in parallel, but use fewer results."""
    seed: int = 0
    """Random seed of the search."""
    parallel: int = 0
    """Maximum number of trials that run in parallel if train.ranks is 1; 0: the number of Spark slots."""

    def __post_init__(self) -> None:
        check_name("sweep.name", self.name)
        check_distinct("sweep.seeds", self.seeds)
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"sweep.methods has duplicates: {list(self.methods)}")
        check_limits(self, "sweep", "trials", "parallel", least=0)
        check_limits(self, "sweep", "batch", least=1)
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"sweep.seed must be in [0, 2^32), got {self.seed}")
        if self.trials and self.grid:
            raise ValueError("sweep has both a grid and trials: give a grid, or trials with a space")
        for key, values in self.grid.items():
            if not values or len({repr(value) for value in values}) < len(values):
                raise ValueError(f"sweep.grid.{key} needs distinct values, got {list(values)}")


@settings
class ConflictSettings:
    """Gradient conflict between domains at theta_S of a trained run, before and after rounds of DN."""

    run_id: str = ""
    """The run to measure: an id, or champion, the run in production; empty: the newest successful run."""
    rows: int = 1024
    """Maximum number of training rows for the gradient of a domain, drawn at random."""
    max_pairs: int = 5000
    """Maximum number of pairs of domains; with more pairs a random sample of this size is measured."""
    dn_rounds: int = 16
    """Rounds of DN between the two measurements; 0: measure once."""
    lr: float = 1e-3
    """Inner learning rate alpha of these rounds (SGD)."""
    beta: float = 0.5
    """Outer learning rate beta of these rounds."""
    seed: int = 0
    """Random seed of the rows, the pairs and the rounds."""

    def __post_init__(self) -> None:
        check_limits(self, "conflict", "rows", "max_pairs", least=1)
        check_limits(self, "conflict", "dn_rounds", least=0)
        if not (self.lr > 0 and self.beta > 0):
            raise ValueError(f"need conflict.lr > 0 and beta > 0, got {self.lr} and {self.beta}")


def check_name(key: str, name: str) -> None:
    """Check that a name is valid as a folder name and in SQL.

    Raises:
        ValueError: it is not.
    """
    if name and not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{key} {name!r}: use letters, digits, _, . and - only")


def check_distinct(key: str, values: tuple[object, ...]) -> None:
    """Check that values are given and distinct.

    Raises:
        ValueError: there are none, or duplicates.
    """
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{key} needs distinct values, got {list(values)}")


@settings
class ImportanceSettings:
    """Permutation importance: the run, its features, and the number of permutations."""

    run_id: str = ""
    """The run to measure: an id; champion: the promoted run; empty: the newest successful run."""
    split: Literal["train", "val", "test"] = "test"
    """Split of examples, in the version that the run was trained on."""
    features: tuple[str, ...] = ()
    """Features to permute: user, item, or names of declared features. Empty: user, item and all declared features."""
    repeats: int = 5
    """Permutations of each feature, over which drops are averaged."""
    seed: int = 0
    """Seed of the permutations, which are the same for all features."""

    def __post_init__(self) -> None:
        check_limits(self, "importance", "repeats", least=1)
