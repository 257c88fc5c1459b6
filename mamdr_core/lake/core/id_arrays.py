"""Columns with arrays of ids and of their weights."""

from pyspark.sql import Column
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature


def newest_or_first(feature: Feature, values: Column) -> Column:
    """At most `length` values of an array: the first ones of a bag, the last (newest) ones of a sequence."""
    first = F.greatest(F.size(values) - feature.length + 1, F.lit(1)) if feature.kind == "sequence" else F.lit(1)
    return F.slice(values, first, F.lit(feature.length))


def in_pairs(ids: Column, weights: Column) -> Column:
    """An array of structs `id`, `weight`; the weight is null if there are fewer weights than ids."""
    return F.zip_with(ids, weights, lambda value, weight: F.struct(value.alias("id"), weight.alias("weight")))
