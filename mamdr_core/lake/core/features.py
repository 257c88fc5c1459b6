"""Declared features in the lake: columns of clicks and examples, and fixed vectors by index."""

from collections.abc import Sequence

from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
from schemas import Table, clicks_table, examples_table, without_split


def declared_clicks(features: Sequence[Feature], has_split: bool = False, has_weight: bool = False) -> Table:
    """The table clicks with the declared features, and with `split` and `sample_weight` where the log gives them.

    Raises:
        MamdrError: a feature has the name of a column or of another feature.
    """
    _check_names(features)
    return clicks_table(features, has_split, has_weight)


def declared_examples(features: Sequence[Feature], has_split: bool = True, has_weight: bool = False) -> Table:
    """The table examples with the declared features, with `sample_weight` where declared, without `split` where windows
    decide it.

    Raises:
        MamdrError: a feature has the name of a column or of another feature.
    """
    _check_names(features)
    table = examples_table(features, has_weight)
    return table if has_split else without_split(table)


def _check_names(features: Sequence[Feature]) -> None:
    taken = {*clicks_table((), has_weight=True).column_names, *examples_table(()).column_names}
    for number, feature in enumerate(features):
        if feature.name.lower() in taken:  # Spark tells columns apart without regard to case
            raise MamdrError(f"features.{number}.name: {feature.name!r} is taken; choose another (see `expression`)")
        taken.add(feature.name.lower())
