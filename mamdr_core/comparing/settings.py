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
