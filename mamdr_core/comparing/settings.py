"""Settings of comparisons, sweeps, and measuring conflict."""

import re
from dataclasses import field
from typing import Any

from mamdr_core.settings import settings


@settings
class CompareSettings:
    """Which cells are compared: models x methods x seeds."""

    name: str = ""
    """Names the comparison in the table comparisons and its files; empty: made from what is compared."""
    models: tuple[str, ...] = ()
    """Model structures; empty: model.name."""
    methods: tuple[str, ...] = ("joint", "mamdr")
    """Learning methods."""
    pairs: tuple[str, ...] = ()
    """model/method each: exactly these are compared, instead of every method on every model."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """train.seed of the runs of each model and method."""
    baseline: str = "joint"
    """What the others are tested against: a method, each model's own, or one model/method for all."""
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By model, by method or by model/method, later kinds over earlier ones: config keys and their values, such as
    `mamdr: {train.dr.k: 5}`."""
    parallel: int = 0
    """Cells that run at once, if train.ranks is 1; 0: as many as Spark has slots."""
    largest: int = 10
    """Domains whose AUC the report shows one by one, those with most training rows."""

    def __post_init__(self) -> None:
        """Check names and counts."""
        check_name("compare.name", self.name)
        for key in ("methods", "seeds"):
            check_distinct(f"compare.{key}", getattr(self, key))
        for key in ("parallel", "largest"):
            if getattr(self, key) < 0:
                raise ValueError(f"compare.{key} must be >= 0, got {getattr(self, key)}")
        for pair in self.pairs:
            if pair.count("/") != 1:
                raise ValueError(f"compare.pairs: expected model/method, got {pair!r}")


@settings
class SpaceSettings:
    """What the search may give a config key: a range, or one of some values."""

    low: int | float | None = None
    """Least value; with `high`. Both whole numbers: the value is one too."""
    high: int | float | None = None
    """Greatest value."""
    log: bool = False
    """Search the logarithm."""
    choices: tuple[Any, ...] = ()
    """The values, instead of a range."""

    def __post_init__(self) -> None:
        """Check that it is one of the two."""
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if len(bounds) != (0 if self.choices else 2):
            raise ValueError("a space needs either low and high, or choices")
        low, high = bounds or (1, 2)
        if not low < high or (self.log and low <= 0):
            raise ValueError(f"a space needs low < high, above 0 with log, got {self.low} and {self.high}")


@settings
class SweepSettings:
    """Which settings are tried: a grid, or a search with an equal budget for every method."""

    name: str = ""
    """Names the sweep in the tables sweeps and comparisons and its files; empty: made from what is tried."""
    methods: tuple[str, ...] = ()
    """Learning methods; empty: train.method."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """train.seed of the runs of every point of a grid, and of the best point that a search finds."""
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Config keys and the values that each takes: every combination is tried."""
    trials: int = 0
    """Trials of the search for every method, each one run with the first seed; 0: try the grid."""
    space: dict[str, SpaceSettings] = field(default_factory=dict)
    """What the search may give each config key."""
    method_space: dict[str, dict[str, SpaceSettings]] = field(default_factory=dict)
    """The same for one method, beside or instead of `space`."""
    batch: int = 1
    """Trials of a method that are drawn at once; more run side by side, but are drawn knowing less."""
    seed: int = 0
    """Decides what the search draws."""
    parallel: int = 0
    """Cells that run at once, if train.ranks is 1; 0: as many as Spark has slots."""

    def __post_init__(self) -> None:
        """Check names and counts."""
        check_name("sweep.name", self.name)
        check_distinct("sweep.seeds", self.seeds)
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"sweep.methods names something twice: {list(self.methods)}")
        if self.trials < 0 or self.parallel < 0 or self.batch < 1:
            raise ValueError(
                f"need sweep.trials >= 0, parallel >= 0, batch >= 1: {self.trials}, {self.parallel}, {self.batch}"
            )
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"sweep.seed must lie in [0, 2^32), got {self.seed}")
        if self.trials and self.grid:
            raise ValueError("sweep has a grid and trials: give a grid, or trials with a space")
        for key, values in self.grid.items():
            if not values or len({repr(value) for value in values}) < len(values):
                raise ValueError(f"sweep.grid.{key} must have values, and none twice: {list(values)}")


@settings
class ConflictSettings:
    """How much domains' gradients conflict at theta_S of a trained run, before and after rounds of DN."""

    run_id: str = ""
    """The run whose package is measured: an id, or champion, the run that serves; empty: the newest that ended well."""
    rows: int = 1024
    """Training rows of a domain that its gradient is computed on at most, drawn at random."""
    max_pairs: int = 5000
    """All pairs of domains are measured up to so many; of more a random sample of so many."""
    dn_rounds: int = 16
    """Rounds of DN between the two measurements; 0: measure once."""
    lr: float = 1e-3
    """Inner learning rate alpha of these rounds (SGD)."""
    beta: float = 0.5
    """Outer learning rate beta of these rounds."""
    seed: int = 0
    """Decides the drawn rows and pairs and the rounds."""

    def __post_init__(self) -> None:
        """Check the counts."""
        if min(self.rows, self.max_pairs) < 1 or self.dn_rounds < 0:
            raise ValueError(
                f"need conflict.rows >= 1, max_pairs >= 1, dn_rounds >= 0: {self.rows}, {self.max_pairs}, "
                f"{self.dn_rounds}"
            )
        if not (self.lr > 0 and self.beta > 0):
            raise ValueError(f"need conflict.lr > 0 and beta > 0, got {self.lr} and {self.beta}")


def check_name(key: str, name: str) -> None:
    """Check that a name can be a folder's and stand in SQL.

    Raises:
        ValueError: it cannot.
    """
    if name and not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{key} {name!r}: use letters, digits, _, . and - only")


def check_distinct(key: str, values: tuple[object, ...]) -> None:
    """Check that there are values, and none twice.

    Raises:
        ValueError: there are none, or one is there twice.
    """
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{key} must name something, and nothing twice: {list(values)}")
