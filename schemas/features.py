"""The columns of declared features in clicks and examples."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from schemas.clicks import CLICKS
from schemas.declaration import Column, DeclaredTable, Rule
from schemas.examples import EXAMPLES

SAMPLE_WEIGHT = "sample_weight"
"""The column with the weight of a row in clicks and examples, if the log declares it."""


class DeclaredFeature(Protocol):
    """The properties of a feature that determine its columns; implemented by `mamdr_core.config.features.Feature`."""

    @property
    def name(self) -> str:
        """Name of the column."""

    @property
    def kind(self) -> str:
        """categorical, bag, sequence, numeric or vector."""

    @property
    def weights(self) -> str:
        """Expression of the weights of a bag's ids; empty: they have none."""

    @property
    def history(self) -> bool:
        """Whether a sequence is built from clicks, so that it is not a column of clicks."""

    @property
    def quantiles(self) -> int:
        """Number of ranges of a categorical feature that is a number in the log; 0: it is an id."""

    @property
    def minimum(self) -> float | None:
        """Smallest valid value of a numeric feature."""

    @property
    def maximum(self) -> float | None:
        """Largest valid value of a numeric feature."""


def weights_of(feature: str) -> str:
    """The column of the weights of a bag's ids."""
    return f"{feature}_weights"


def columns_in_clicks(feature: DeclaredFeature) -> tuple[Column, ...]:
    """The columns of a feature in clicks; vectors are in other tables, and histories are built from clicks."""
    if feature.kind == "vector" or feature.history:
        return ()
    if feature.kind in ("bag", "sequence"):
        ids = Column(feature.name, "array<string>", f"declared {feature.kind}: its ids", nullable=True)
        weights = Column(weights_of(feature.name), "array<float>", "their weights; null: 1 each", nullable=True)
        return (ids, weights) if feature.weights else (ids,)
    is_id = feature.kind == "categorical" and not feature.quantiles
    return (Column(feature.name, "string" if is_id else "double", "declared feature", nullable=True),)


def columns_in_examples(feature: DeclaredFeature) -> tuple[Column, ...]:
    """The columns of a feature in examples."""
    if feature.kind == "vector":
        return ()
    if feature.kind in ("bag", "sequence"):
        ids = Column(feature.name, "array<int>", f"declared {feature.kind}: its known ids in order, by index")
        weights = Column(weights_of(feature.name), "array<float>", "their weights")
        return (ids, weights) if feature.weights else (ids,)
    if feature.kind == "categorical":
        return (Column(feature.name, "int", "declared categorical feature; -1: unknown"),)
    return (Column(feature.name, "float", "declared numeric feature", nullable=True),)


def clicks_table(
    features: Iterable[DeclaredFeature], has_split: bool = False, has_weight: bool = False
) -> DeclaredTable:
    """The table clicks with declared features: categorical string, numeric double, several ids array<string>.

    Args:
        features: the declared features.
        has_split: whether the log has a column of the split.
        has_weight: whether the log has a column of the sample weight.
    """
    from_log = [Column("split", "string", "train, val or test, from the log", nullable=True)] if has_split else []
    if has_weight:
        from_log.append(Column(SAMPLE_WEIGHT, "double", "weight in training, from the log; null: 1", nullable=True))
    return CLICKS.with_columns(from_log).with_columns(
        column for feature in features for column in columns_in_clicks(feature)
    )


def examples_table(features: Iterable[DeclaredFeature], has_weight: bool = False) -> DeclaredTable:
    """The table examples with declared features: categorical int, numeric float, several ids array<int>.

    The index of unknown categorical values is -1; missing numeric values are null.

    Args:
        features: the declared features.
        has_weight: whether rows have weights.
    """
    weight = [Column(SAMPLE_WEIGHT, "float", "weight in training; null: 1", nullable=True)] if has_weight else []
    return EXAMPLES.with_columns(weight).with_columns(
        column for feature in features for column in columns_in_examples(feature)
    )


def feature_rules(features: Iterable[DeclaredFeature], unreadable: str) -> Iterator[Rule]:
    """The rules of declared features.

    A numeric feature has `<feature>_readable` and, with bounds, `<feature>_in_range`; a bag with weights has
    `<feature>_weights_valid`. Null passes all rules; NaN passes `<feature>_readable`.

    Args:
        features: the declared features.
        unreadable: column with the name of a row's first unreadable feature; null if there is none.
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
