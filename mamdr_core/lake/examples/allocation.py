"""Divides a domain's negatives among its users exactly, by running totals without a whole domain in one task."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.few import local_frame, small
from mamdr_core.lake.core.hashing import bucket, uniform

_PART = "_part"


def running_total(rows: DataFrame, order: str, weight: str, to: str) -> DataFrame:
    """Add the column `to`: the sum of `weight` over the preceding rows of the same domain, in the order of a hash.

    A domain is summed in `parts` ranges of the hash, so that no task sorts a large domain. Their number does not
    matter.
    """
    parted = rows.withColumn(_PART, bucket(F.col(order), F.col("parts")))
    before = Window.partitionBy("domain").orderBy(_PART).rowsBetween(Window.unboundedPreceding, -1)
    # Parts are ranges of the unsigned hash, so rows within them are ordered by it as well.
    ordered = Window.partitionBy("domain", _PART).orderBy(uniform(F.col(order)), order)
    inside = ordered.rowsBetween(Window.unboundedPreceding, -1)
    offsets = (
        parted.groupBy("domain", _PART)
        .agg(F.sum(weight).alias("_sum"))
        .select("domain", _PART, F.coalesce(F.sum("_sum").over(before), F.lit(0)).alias("_offset"))
    )
    total = F.col("_offset") + F.coalesce(F.sum(weight).over(inside), F.lit(0))
    # There are few parts, with one row each.
    joined = parted.join(small(offsets), ["domain", _PART], "inner")
    return joined.withColumn(to, total).drop(_PART, "_offset")


def share(before: Column, weight: Column, whole: Column, amount: Column) -> Column:
    """Divide `amount` in proportion to weights, into integers whose sum is exactly `amount`.

    Systematic allocation: with running totals c of the weights, floor(c_after * amount / whole) -
    floor(c_before * amount / whole). No share exceeds its weight if amount <= whole. Decimals are necessary, because a
    number of clicks times a number of user-item pairs can exceed 2^63.

    Args:
        before: sum of the preceding weights.
        whole: sum of all weights.
    """
    before, after, whole, amount = (each.cast("decimal(18,0)") for each in (before, before + weight, whole, amount))
    return divide(after * amount, whole) - divide(before * amount, whole)


def share_out(groups: DataFrame, keep: Keep) -> DataFrame:
    """Add `take`, the number of negatives of each group, in proportion to its clicks and limited by its room.

    What exceeds the room of a group is divided among the other groups of its domain in proportion to their spare room.

    Args:
        groups: domain, group_hash (unique in the domain), clicks, room; positives, negatives, parts of the domain.
        keep: persists frames that are used twice.
    """
    placed = running_total(groups, "group_hash", "clicks", "before")
    wanted = share(F.col("before"), F.col("clicks"), F.col("positives"), F.col("negatives"))
    placed = placed.withColumn("wanted", wanted).withColumn("take", F.least("wanted", "room"))
    placed = keep(placed.withColumn("spare", F.col("room") - F.col("take")).drop("before"))
    lacking = (
        placed.groupBy("domain")
        .agg(F.sum(F.col("wanted") - F.col("take")).alias("lacking"), F.sum("spare").alias("all_spare"))
        .where(F.col("lacking") > 0)
    )
    short = lacking.collect()
    if not short:
        return placed
    domains = small(local_frame(groups.sparkSession, short, lacking.schema))
    more = running_total(placed.join(domains, "domain", "inner"), "group_hash", "spare", "before")
    extra = share(F.col("before"), F.col("spare"), F.col("all_spare"), F.least("lacking", "all_spare"))
    topped = more.withColumn("take", F.col("take") + extra).select(placed.columns)
    return placed.join(domains.select("domain"), "domain", "left_anti").unionByName(topped)


def divide(number: Column, by: Column) -> Column:
    """The integer part of a quotient of integers >= 0."""
    return F.call_function("div", number, by)
