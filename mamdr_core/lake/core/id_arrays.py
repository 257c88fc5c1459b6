"""Arrays of several ids of a row, and of their weights."""

from pyspark.sql import Column
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature


def newest_or_first(feature: Feature, values: Column) -> Column:
    """At most `length` values: the first of a bag, the newest, which are the last, of a sequence."""
    first = F.greatest(F.size(values) - feature.length + 1, F.lit(1)) if feature.kind == "sequence" else F.lit(1)
    return F.slice(values, first, F.lit(feature.length))


def in_pairs(ids: Column, weights: Column) -> Column:
    """Ids, each with its weight (null where there are fewer weights), as an array of `id` and `weight`."""
    return F.zip_with(ids, weights, lambda value, weight: F.struct(value.alias("id"), weight.alias("weight")))
