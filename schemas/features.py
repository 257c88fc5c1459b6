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
        """categorical, numeric or vector."""

    @property
    def minimum(self) -> float | None:
        """Least value of a numeric feature."""

    @property
    def maximum(self) -> float | None:
        """Greatest value of a numeric feature."""


def clicks_table(features: Iterable[DeclaredFeature], has_split: bool = False, has_weight: bool = False) -> Table:
    """The table clicks with declared features: categorical string, numeric double; vectors have tables of their own.

    Args:
        features: declared ones.
        has_split: whether the log gives the split of a row.
        has_weight: whether it gives the weight of a row.
    """
    given = [Column("split", "string", "train, val or test, as the log gives it", nullable=True)] if has_split else []
    if has_weight:
        given.append(Column(SAMPLE_WEIGHT, "double", "weight in training, as the log gives it; null: 1", nullable=True))
    return CLICKS.with_columns(given).with_columns(
        Column(feature.name, "string" if feature.kind == "categorical" else "double", "declared feature", nullable=True)
        for feature in features
        if feature.kind != "vector"
    )


def examples_table(features: Iterable[DeclaredFeature], has_weight: bool = False) -> Table:
    """The table examples with declared features: categorical int (-1: unknown), numeric float (null stays null).

    Args:
        features: declared ones.
        has_weight: whether rows have weights.
    """
    weight = [Column(SAMPLE_WEIGHT, "float", "weight in training; null: 1", nullable=True)] if has_weight else []
    return EXAMPLES.with_columns(weight).with_columns(
        Column(feature.name, "int", "declared categorical feature; -1: unknown")
        if feature.kind == "categorical"
        else Column(feature.name, "float", "declared numeric feature", nullable=True)
        for feature in features
        if feature.kind != "vector"
    )


def numeric_rules(features: Iterable[DeclaredFeature], unreadable: str) -> Iterator[Rule]:
    """The rules of numeric features: `<feature>_readable` and, where it has a bound, `<feature>_in_range`.

    Null passes both; NaN passes the first.

    Args:
        features: declared ones.
        unreadable: column that names a row's first feature whose text is no number; null where there is none.
    """
    for feature in features:
        if feature.kind != "numeric":
            continue
        readable = f"{unreadable} IS NULL OR {unreadable} <> '{feature.name}'"
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
