"""Numbers replaced by their range: ranges learned on the train split, kept until `examples.rebuild` is set."""

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.increments import STATE, Increment, built_with, last_build
from mamdr_core.lake.examples.windows import Window
from mamdr_core.runtime.errors import MamdrError
from schemas import UNKNOWN_INDEX

logger = logging.getLogger(__name__)

QUANTILES = "quantiles"
"""In a build's state: by feature, the bounds of its ranges, ascending."""
_ACCURACY = 100
"""Ranks of a quantile are exact to a part of this of a range."""
_SHOWN = 3
Bounds = Mapping[str, Sequence[float]]


def cut_features(features: Sequence[Feature]) -> list[Feature]:
    """The features whose numbers are replaced by ranges."""
    return [feature for feature in features if feature.quantiles]


def learn_bounds(rows: DataFrame, features: Sequence[Feature], window: Window) -> dict[str, list[float]]:
    """By feature, at most `quantiles` - 1 bounds between which equally many of the train split's known values lie.

    A feature without a known value there has the bounds of all splits; without any, it is left out.

    Args:
        rows: of all splits, with `split` unless the window decides it.
        features: from `cut_features`, with their numbers.
        window: of the examples.
    """
    train = rows.where(F.col("split") == "train") if "split" in rows.columns else rows.where(_in_days(window))
    bounds = _bounds_of(train, features)
    if lacking := [feature for feature in features if feature.name not in bounds]:
        names = ", ".join(feature.name for feature in lacking)
        logger.warning("quantiles: no train row has a value of %s: bounds are learned on all rows", names)
        bounds |= _bounds_of(rows, lacking)
    logger.info("quantiles: learned %s", ", ".join(f"{name} ({len(of)} bounds)" for name, of in bounds.items()))
    return bounds


def _bounds_of(rows: DataFrame, features: Sequence[Feature]) -> dict[str, list[float]]:
    """The bounds of the features that have a value in some row."""
    asked = []
    for feature in features:
        value = F.col(feature.name)
        known = F.when(~F.isnan(value) & (F.abs(value) < math.inf), value)
        shares = [place / feature.quantiles for place in range(1, feature.quantiles)]
        asked.append(F.percentile_approx(known, shares, _ACCURACY * feature.quantiles))
    found = rows.agg(*asked).collect()[0]
    return {feature.name: sorted(set(values)) for feature, values in zip(features, found, strict=True) if values}


def cut_numbers(rows: DataFrame, features: Sequence[Feature], bounds: Bounds) -> DataFrame:
    """Replace numbers by the index of their range: how many bounds are below them; -1 where they are missing."""
    return rows.withColumns(
        {feature.name: _range_of(feature.name, bounds.get(feature.name, ())) for feature in features}
    )


def kept_bounds(increment: Increment, config: Config) -> dict[str, list[float]]:
    """The bounds that the last build noted, of features that are declared as they were then; none where
    `examples.rebuild` is set.
    """
    noted = increment.before.get(STATE, {})
    if increment.is_wanted or QUANTILES not in noted:
        return {}
    now, then = built_with(config)["features"], noted["built_with"]["features"]
    same = {identity[0] for identity in now if identity in then}
    return {name: bounds for name, bounds in noted[QUANTILES].items() if name in same}


def noted_bounds(lake: Lake, version: int) -> Bounds:
    """The bounds that a version of the examples was built with."""
    found: Bounds = last_build(lake.log("examples"), version).note.get(STATE, {}).get(QUANTILES, {})
    return found


def check_same_bounds(run_id: str, learned: Bounds, now: Bounds) -> None:
    """Check that a run was trained with the same range bounds as the examples have.

    Args:
        run_id: names the run.
        learned: its bounds, from its package; none in packages that do not hold them.
        now: those of the examples.

    Raises:
        MamdrError: a feature that both have has other bounds.
    """
    for name in sorted(learned.keys() & now.keys()):
        if list(learned[name]) != list(now[name]):
            raise MamdrError(
                f"run {run_id} was trained with other bounds of the quantiles of {name} ({_named(learned[name])}) than "
                f"these examples have ({_named(now[name])}): build_examples has learned them again since"
            )


def _named(bounds: Sequence[float]) -> str:
    shown = ", ".join(f"{bound:g}" for bound in bounds[:_SHOWN])
    return f"{shown}, ..." if len(bounds) > _SHOWN else shown


def _range_of(name: str, bounds: Sequence[float]) -> Column:
    value = F.col(name)
    if not bounds:
        return F.lit(UNKNOWN_INDEX)
    below = F.size(F.filter(F.array(*map(F.lit, bounds)), lambda bound: bound < value))
    return F.coalesce(F.when(value.isNotNull() & ~F.isnan(value), below), F.lit(UNKNOWN_INDEX)).cast("int")


def _in_days(window: Window) -> Column:
    first, last = window.limits("train")
    return F.col("ds").between(first or date.min, last or date.max)
