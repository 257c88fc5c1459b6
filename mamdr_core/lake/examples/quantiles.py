"""Numbers replaced by the range that they lie in: ranges learned on the train split, kept until the next rebuild."""

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.features import Feature
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.increments import STATE, last_build
from mamdr_core.lake.examples.windows import Window
from schemas import UNKNOWN_INDEX

logger = logging.getLogger(__name__)

QUANTILES = "quantiles"
"""In a build's state: by feature, the bounds of its ranges, ascending."""
_ACCURACY = 100
"""Ranks of a quantile are exact to a part of this of a range."""
Bounds = Mapping[str, Sequence[float]]


def cut_features(features: Sequence[Feature]) -> list[Feature]:
    """The features whose numbers are replaced by ranges."""
    return [feature for feature in features if feature.quantiles]


def learn_bounds(rows: DataFrame, features: Sequence[Feature], window: Window) -> dict[str, list[float]]:
    """By feature, at most `quantiles` - 1 bounds between which equally many of the train split's known values lie.

    Args:
        rows: of all splits, with `split` unless the window decides it.
        features: from `cut_features`, with their numbers.
        window: of the examples.
    """
    train = rows.where(F.col("split") == "train") if "split" in rows.columns else rows.where(_in_days(window))
    asked = []
    for feature in features:
        value = F.col(feature.name)
        known = F.when(~F.isnan(value) & (F.abs(value) < math.inf), value)
        shares = [place / feature.quantiles for place in range(1, feature.quantiles)]
        asked.append(F.percentile_approx(known, shares, _ACCURACY * feature.quantiles))
    found = train.agg(*asked).collect()[0]
    bounds = {feature.name: sorted(set(values or ())) for feature, values in zip(features, found, strict=True)}
    logger.info("quantiles: learned %s", ", ".join(f"{name} ({len(of)} bounds)" for name, of in bounds.items()))
    return bounds


def cut_numbers(rows: DataFrame, features: Sequence[Feature], bounds: Bounds) -> DataFrame:
    """Replace numbers by the index of their range: how many bounds are below them; -1 where they are missing."""
    return rows.withColumns({feature.name: _range_of(feature.name, bounds[feature.name]) for feature in features})


def noted_bounds(lake: Lake, version: int) -> Bounds:
    """The bounds that a version of the examples was built with."""
    found: Bounds = last_build(lake.log("examples"), version).note.get(STATE, {}).get(QUANTILES, {})
    return found


def _range_of(name: str, bounds: Sequence[float]) -> Column:
    value = F.col(name)
    below = F.size(F.filter(F.array(*map(F.lit, bounds)), lambda bound: bound < value)) if bounds else F.lit(0)
    return F.coalesce(F.when(value.isNotNull() & ~F.isnan(value), below), F.lit(UNKNOWN_INDEX)).cast("int")


def _in_days(window: Window) -> Column:
    first, last = window.limits("train")
    return F.col("ds").between(first or date.min, last or date.max)
