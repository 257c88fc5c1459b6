"""How declared features extend clicks and examples."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from schemas.clicks import CLICKS
from schemas.declaration import Column, Rule, Table
from schemas.examples import EXAMPLES

SAMPLE_WEIGHT = "sample_weight"
"""The column of clicks and examples that weighs a row, where the log declares it."""


class DeclaredFeature(Protocol):
    """What a table needs to know of a feature; `mamdr_core.features.Feature` is one."""

    @property
    def name(self) -> str:
        """Name of the column."""

    @property
    def kind(self) -> str:
        """categorical, bag, sequence, numeric or vector."""

    @property
    def weights(self) -> str:
        """Of a bag, what gives the weights of its ids; empty: they have none."""

    @property
    def history(self) -> bool:
        """Whether a sequence is made of clicks, and so no column of clicks."""

    @property
    def quantiles(self) -> int:
        """Whether a categorical feature is a number in the log."""

    @property
    def minimum(self) -> float | None:
        """Least value of a numeric feature."""

    @property
    def maximum(self) -> float | None:
        """Greatest value of a numeric feature."""


def weights_of(feature: str) -> str:
    """The column of the weights of a bag's ids."""
    return f"{feature}_weights"


def columns_in_clicks(feature: DeclaredFeature) -> tuple[Column, ...]:
    """What a feature adds to clicks; a vector has a table of its own, and a history is made of clicks."""
    if feature.kind == "vector" or feature.history:
        return ()
    if feature.kind in ("bag", "sequence"):
        ids = Column(feature.name, "array<string>", f"declared {feature.kind}: its ids", nullable=True)
        weights = Column(weights_of(feature.name), "array<float>", "their weights; null: 1 each", nullable=True)
        return (ids, weights) if feature.weights else (ids,)
    is_id = feature.kind == "categorical" and not feature.quantiles
    return (Column(feature.name, "string" if is_id else "double", "declared feature", nullable=True),)


def columns_in_examples(feature: DeclaredFeature) -> tuple[Column, ...]:
    """What a feature adds to examples."""
    if feature.kind == "vector":
        return ()
    if feature.kind in ("bag", "sequence"):
        ids = Column(feature.name, "array<int>", f"declared {feature.kind}: its known ids in order, by index")
        weights = Column(weights_of(feature.name), "array<float>", "their weights")
        return (ids, weights) if feature.weights else (ids,)
    if feature.kind == "categorical":
        return (Column(feature.name, "int", "declared categorical feature; -1: unknown"),)
    return (Column(feature.name, "float", "declared numeric feature", nullable=True),)


def clicks_table(features: Iterable[DeclaredFeature], has_split: bool = False, has_weight: bool = False) -> Table:
    """The table clicks with declared features: categorical string, numeric double, several ids array<string>.

    Args:
        features: declared ones.
        has_split: whether the log gives the split of a row.
        has_weight: whether it gives the weight of a row.
    """
    given = [Column("split", "string", "train, val or test, as the log gives it", nullable=True)] if has_split else []
    if has_weight:
        given.append(Column(SAMPLE_WEIGHT, "double", "weight in training, as the log gives it; null: 1", nullable=True))
    return CLICKS.with_columns(given).with_columns(
        column for feature in features for column in columns_in_clicks(feature)
    )


def examples_table(features: Iterable[DeclaredFeature], has_weight: bool = False) -> Table:
    """The table examples with declared features: categorical int (-1: unknown), numeric float (null stays null),
    several ids array<int>.

    Args:
        features: declared ones.
        has_weight: whether rows have weights.
    """
    weight = [Column(SAMPLE_WEIGHT, "float", "weight in training; null: 1", nullable=True)] if has_weight else []
    return EXAMPLES.with_columns(weight).with_columns(
        column for feature in features for column in columns_in_examples(feature)
    )


def feature_rules(features: Iterable[DeclaredFeature], unreadable: str) -> Iterator[Rule]:
    """The rules of features: of a number `<feature>_readable` and, where it has a bound, `<feature>_in_range`; of a bag
    with weights `<feature>_weights_valid`.

    Null passes all of them; NaN in a number passes the first.

    Args:
        features: declared ones.
        unreadable: column that names a row's first feature that cannot be read; null where there is none.
    """
    for feature in features:
        readable = f"{unreadable} IS NULL OR {unreadable} <> '{feature.name}'"
        if feature.weights:
            valid = f"the weights of {feature.name} are one number >= 0 for each id"
            yield Rule(f"{weights_of(feature.name)}_valid", readable, valid, enforced=False)
        if feature.kind != "numeric" and not feature.quantiles:
            continue
        yield Rule(f"{feature.name}_readable", readable, f"{feature.name} is a number", enforced=False)
        if condition := _within(feature):
            yield Rule(f"{feature.name}_in_range", condition, f"{feature.name} is within its range", enforced=False)


def _within(feature: DeclaredFeature) -> str:
    column, parts = f"`{feature.name}`", []
    if feature.minimum is not None:
        parts.append(f"{column} >= {feature.minimum!r}D")
    if feature.maximum is not None:
        parts.append(f"{column} <= {feature.maximum!r}D")
    return f"{column} IS NULL OR ({' AND '.join([f'NOT isnan({column})', *parts])})" if parts else ""
