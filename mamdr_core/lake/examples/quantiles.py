"""Replaces numbers by quantile ranges, whose bounds are learned on train rows and kept until a requested rebuild."""

import logging
import math
from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.increments import STATE, Increment, built_with, last_build
from mamdr_core.lake.examples.windows import Window, in_days
from mamdr_core.runtime.errors import MamdrError
from schemas import UNKNOWN_INDEX

logger = logging.getLogger(__name__)

QUANTILES = "quantiles"
"""Key of a build's state: the ascending bounds of the ranges by feature."""
_ACCURACY = 100
"""Ranks of quantiles are exact to 1/100 of a range."""
_SHOWN = 3
Bounds = Mapping[str, Sequence[float]]


def cut_features(features: Sequence[Feature]) -> list[Feature]:
    """The features whose numbers are replaced by ranges."""
    return [feature for feature in features if feature.quantiles]


def learn_bounds(rows: DataFrame, features: Sequence[Feature], window: Window) -> dict[str, list[float]]:
    """Learn the bounds by feature: at most `quantiles` - 1 bounds that divide the train split's known values equally.

    The bounds of a feature without known values in the train split are learned on all splits; a feature without any
    known value is left out.

    Args:
        rows: rows of all splits, with `split` unless the window decides it.
        features: result of `cut_features`.
    """
    in_train = "split = 'train'" if "split" in rows.columns else in_days(window.limits("train"))
    bounds = _bounds_of(rows.where(in_train), features)
    if lacking := [feature for feature in features if feature.name not in bounds]:
        names = ", ".join(feature.name for feature in lacking)
        logger.warning("quantiles: no train row has a value of %s: bounds are learned on all rows", names)
        bounds |= _bounds_of(rows, lacking)
    logger.info("quantiles: learned %s", ", ".join(f"{name} ({len(of)} bounds)" for name, of in bounds.items()))
    return bounds


def _bounds_of(rows: DataFrame, features: Sequence[Feature]) -> dict[str, list[float]]:
    """The bounds of the features with known values."""
    asked = []
    for feature in features:
        value = F.col(feature.name)
        known = F.when(~F.isnan(value) & (F.abs(value) < math.inf), value)
        shares = [place / feature.quantiles for place in range(1, feature.quantiles)]
        asked.append(F.percentile_approx(known, shares, _ACCURACY * feature.quantiles))
    found = rows.agg(*asked).collect()[0]
    return {feature.name: sorted(set(values)) for feature, values in zip(features, found, strict=True) if values}


def cut_numbers(rows: DataFrame, features: Sequence[Feature], bounds: Bounds) -> DataFrame:
    """Replace numbers by the index of their range, the number of bounds below them; -1: missing."""
    return rows.withColumns(
        {feature.name: _range_of(feature.name, bounds.get(feature.name, ())) for feature in features}
    )


def kept_bounds(increment: Increment, config: Config) -> dict[str, list[float]]:
    """The bounds of the last build for features with unchanged declarations; none if `examples.rebuild` is set."""
    noted = increment.before.get(STATE, {})
    if increment.is_wanted or QUANTILES not in noted:
        return {}
    now, then = built_with(config)["features"], noted["built_with"]["features"]
    same = {identity[0] for identity in now if identity in then}
    return {name: bounds for name, bounds in noted[QUANTILES].items() if name in same}


def noted_bounds(lake: Lake, version: int) -> Bounds:
    """The bounds of a version of the examples."""
    found: Bounds = last_build(lake.log("examples"), version).note.get(STATE, {}).get(QUANTILES, {})
    return found


def check_same_bounds(run_id: str, learned: Bounds, now: Bounds) -> None:
    """Check that a run was trained with the bounds of the examples.

    Args:
        learned: bounds in the package of the run; empty in older packages.
        now: bounds of the examples.

    Raises:
        MamdrError: the bounds of a feature differ.
    """
    for name in sorted(learned.keys() & now.keys()):
        if list(learned[name]) != list(now[name]):
            raise MamdrError(
                f"run {run_id} was trained with other quantiles of {name} ({_named(learned[name])}) than "
                f"these examples have ({_named(now[name])}): build_examples has learned new ones since"
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
