"""The columns of declared features in clicks and examples."""

from collections.abc import Sequence

from pyspark.sql import DataFrame

from mamdr_core.config.features import Feature
from mamdr_core.runtime.errors import MamdrError
from schemas import (
    DeclaredTable,
    clicks_table,
    columns_in_clicks,
    columns_in_examples,
    examples_table,
    weights_of,
    without_split,
)


def declared_clicks(features: Sequence[Feature], has_split: bool = False, has_weight: bool = False) -> DeclaredTable:
    """The table clicks with the declared features, and with `split` and `sample_weight` if the log has them.

    Raises:
        MamdrError: a feature has the name of a column or of another feature.
    """
    _check_names(features)
    return clicks_table(features, has_split, has_weight)


def declared_examples(features: Sequence[Feature], has_split: bool = True, has_weight: bool = False) -> DeclaredTable:
    """The table examples with the declared features; without `split` if windows decide it.

    Raises:
        MamdrError: a feature has the name of a column or of another feature.
    """
    _check_names(features)
    table = examples_table(features, has_weight)
    return table if has_split else without_split(table)


def check_types(clicks: DataFrame, features: Sequence[Feature]) -> None:
    """Check that the kind of no feature has changed since clicks was written.

    Raises:
        MamdrError: the type of a column of clicks differs from that of the feature.
    """
    held = {field.name: field.dataType.simpleString() for field in clicks.schema}
    for number, feature in enumerate(features):
        for column in columns_in_clicks(feature):
            if held.get(column.name, column.type) != column.type:
                raise MamdrError(
                    f"features.{number}.name: clicks holds {column.name} as {held[column.name]}, and a feature of kind "
                    f"{feature.kind} is {column.type}: rename the feature"
                )


def names_in_clicks(features: Sequence[Feature]) -> list[str]:
    """The columns of clicks that the features are read from."""
    return [column.name for feature in features for column in columns_in_clicks(feature)]


def names_in_examples(features: Sequence[Feature]) -> list[str]:
    """The columns of examples that hold the features."""
    return [column.name for feature in features for column in columns_in_examples(feature)]


def _check_names(features: Sequence[Feature]) -> None:
    taken = {*clicks_table((), has_weight=True).column_names, *examples_table(()).column_names}
    for number, feature in enumerate(features):
        for name in (feature.name, *([weights_of(feature.name)] if feature.weights else [])):
            if name.lower() in taken:  # Spark ignores the case of column names
                raise MamdrError(f"features.{number}.name: {name!r} is taken; choose another (see `expression`)")
            taken.add(name.lower())
