"""Histories: sequences of the items that a row's user clicked before the row, derived from clicks.

Clicks and rows of a user are sorted by time, with rows before clicks of the same time. A running count numbers the
clicks, and a row gets the number of the last click before it; so its newest `length` clicks are a range of numbers.
This needs one shuffle by user, and the work grows with the rows and `length`, not with the clicks of a user.
"""

from collections.abc import Sequence
from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.lake.core.few import gathered
from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.id_arrays import newest_or_first
from mamdr_core.lake.examples.vocabularies import Growth, encode

_AT, _CLICK, _NUMBER, _FOUND = "_at", "_click", "_number", "_found"


def histories(features: Sequence[Feature]) -> list[Feature]:
    """The features that are histories."""
    return [feature for feature in features if feature.history]


def add_histories(
    rows: DataFrame,
    clicks: DataFrame,
    items: Growth,
    features: Sequence[Feature],
    days: tuple[date, date],
    few_users: bool,
) -> DataFrame:
    """Add, for each history, the indices of the items that a row's user clicked before it, newest last.

    Clicks at the row's own time are excluded. A row without a time counts as the beginning of its day, a click without
    a time as the end. Items without an index are left out.

    Args:
        rows: rows with user_hash, event_time and ds.
        clicks: user, item, label, event_time and ds, of any days.
        features: the histories.
        days: first and last day of the rows.
        few_users: whether clicks of users without rows are removed before clicks are sorted.
    """
    # Spark subtracts the days, because the result may be before the year 1, which Python does not support.
    since = F.date_sub(F.lit(days[0]), max(feature.history_days for feature in features))
    clicked = clicks.where(F.col("ds").between(since, days[1]) & (F.col("label") == 1))
    clicked = gathered(clicked).select(
        hash64(F.col("user")).alias("user_hash"), hash64(F.col("item")).alias("_item"), "event_time", "ds"
    )
    if few_users:
        clicked = clicked.join(rows.select("user_hash").distinct(), "user_hash", "left_semi")
    known = encode(clicked, "_item", items.indices, "item", items.total).where(F.col("item") >= 0)
    clicked = known.select(
        "user_hash",
        F.coalesce(F.unix_micros("event_time"), _midnight(F.date_add("ds", 1)) - 1).alias(_AT),
        F.struct("ds", "item").alias(_CLICK),
    )
    timed = rows.withColumn(_AT, F.coalesce(F.unix_micros("event_time"), _midnight(F.col("ds"))))
    both = timed.unionByName(clicked, allowMissingColumns=True)
    is_click = F.col(_CLICK).isNotNull().cast("int")
    in_order = Window.partitionBy("user_hash").orderBy(_AT, is_click, _CLICK)
    numbered = both.withColumn(
        _NUMBER, F.sum(is_click).over(in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow))
    )
    length = max(feature.length for feature in features)
    newest = Window.partitionBy("user_hash").orderBy(_NUMBER).rangeBetween(1 - length, Window.currentRow)
    found = numbered.withColumn(_FOUND, F.collect_list(_CLICK).over(newest)).where(F.col(_CLICK).isNull())
    return found.withColumns({feature.name: _items_of(feature) for feature in features}).drop(
        _AT, _CLICK, _NUMBER, _FOUND
    )


def _items_of(feature: Feature) -> Column:
    recent = F.filter(_FOUND, lambda click: click["ds"] >= F.date_sub("ds", feature.history_days))
    return newest_or_first(feature, recent)["item"]


def _midnight(day: Column) -> Column:
    return F.unix_micros(day.cast("timestamp"))
