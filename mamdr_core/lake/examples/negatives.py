"""Samples negatives for logs with only positives (appendix A.1 of the paper), without a domain or user in one task.

Each user of a domain draws items of the domain that the user never clicked there. The domain's negatives are divided
among its users in proportion to their clicks, exactly; what exceeds the unclicked items of a user goes to other users.
The items are those of a walk through a pseudo-random permutation of the domain's items, so none is drawn twice.
Everything is decided by hashes of ids and the seed.

A user with very many clicks in a domain is split into groups, each with a separate range of the domain's items, so that
the clicks and draws of a group fit in a row; other users are one group. In a large domain with few items, each item has
several copies, because a join sends all rows of a key to one task.
"""

from collections.abc import Callable, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.lake.core.caching import Keep
from mamdr_core.lake.core.few import small
from mamdr_core.lake.examples.allocation import divide, running_total, share_out
from mamdr_core.lake.examples.walks import walk

PLAN = ("domain", "positives", "items", "negatives", "parts")
"""Columns of a plan: domain, number of pairs, distinct items, planned negatives, and parts for running totals."""
GROUP_ROWS = 50_000
"""Maximum number of clicks and expected negatives of a group, approximately. The drawn negatives depend on it."""
GROUP_CLICKS = 1_000
"""Minimum number of clicks in a group of a split user, so that no group is empty and loses its items."""
COPY_ROWS = 50_000
"""Rows of a domain per item for each copy of the item."""
_GROUP = ("user", "user_hash", "domain", "domain_hash", "group", "groups")


def sample_negatives(pairs: DataFrame, plan: DataFrame, seed: int, carried: Sequence[str], keep: Keep) -> DataFrame:
    """Draw the planned negatives.

    Args:
        pairs: distinct clicked pairs: user, item, domain, user_hash, item_hash, domain_hash, key, and `carried`. Users
            and items are identified by their hashes, because all ids without an index have the same index.
        plan: columns PLAN, one row per domain; `negatives` is at most users * items - positives of the domain.
        seed: decides the draws together with the hashes of ids.
        carried: columns that a negative takes from a click of its user in the domain (its day and features).
        keep: persists frames that are used twice; needed until the result has been written.

    Returns:
        user, item, domain, their hashes, and `carried`: exactly `negatives` distinct unclicked pairs for each domain.
    """
    plan = small(plan.select(*PLAN, _copies().alias("copies")))
    catalogue = keep(rank_items(pairs, plan))
    copied = catalogue.join(plan.select("domain", "copies"), "domain", "inner").select(
        *catalogue.columns, F.explode(F.sequence(F.lit(0).cast("long"), F.col("copies") - 1)).alias("copy")
    )
    clicks = keep(_group_clicks(pairs, copied, plan))
    taken = share_out(_count(clicks, plan), keep).where(F.col("take") > 0)
    drawn = _draw(clicks, taken, seed, carried)
    return drawn.join(copied, ["domain", "item_rank", "copy"], "inner").select(
        *("user", "item", "domain", "user_hash", "item_hash", "domain_hash"), *carried
    )


def rank_items(pairs: DataFrame, plan: DataFrame) -> DataFrame:
    """Rank the items of each domain by their hashes: domain, item, item_hash, item_rank from 0."""
    items = pairs.select("domain", "item", "item_hash").distinct().withColumn("one", F.lit(1))
    parts = plan.select("domain", "parts")
    ranked = running_total(items.join(small(parts), "domain", "inner"), "item_hash", "one", "item_rank")
    return ranked.select("domain", "item", "item_hash", "item_rank")


def _copies() -> Column:
    return 1 + divide(F.greatest("positives", "negatives"), F.col("items") * COPY_ROWS)


def _copy() -> Column:
    """The copy of an item with which a user's rows are joined."""
    return F.pmod("user_hash", "copies").alias("copy")


def _group_clicks(pairs: DataFrame, catalogue: DataFrame, plan: DataFrame) -> DataFrame:
    """Add to pairs the rank of their item and the group of their user: number `group` of `groups` ranges of ranks."""
    domains = plan.select("domain", "items", "copies", (F.col("negatives") / F.col("positives")).alias("per_click"))
    rows = F.col("clicks") * (1 + F.col("per_click"))
    groups = F.least(divide(F.col("clicks"), F.lit(GROUP_CLICKS)), F.ceil(rows / GROUP_ROWS))
    divided = (
        pairs.groupBy("user_hash", "domain")
        .agg(F.count("*").alias("clicks"))
        .join(domains, "domain", "inner")
        .select("user_hash", "domain", groups.alias("groups"))
        .where(F.col("groups") > 1)
    )
    ranked = pairs.join(domains, "domain", "inner").withColumn("copy", _copy())
    ranked = ranked.join(catalogue.drop("item"), ["domain", "item_hash", "copy"], "inner")
    return (
        ranked.join(small(divided), ["user_hash", "domain"], "left")
        .withColumn("groups", F.coalesce("groups", F.lit(1).cast("long")))
        .withColumn("group", divide(F.col("item_rank") * F.col("groups"), F.col("items")))
        .drop("item", "item_hash", "items", "copies", "copy", "per_click")
    )


def _count(clicks: DataFrame, plan: DataFrame) -> DataFrame:
    """One row per group: clicks, range of items (`first`, `size`), `room` (unclicked items), and the domain's plan."""
    counted = clicks.groupBy(*_GROUP).agg(F.count("*").alias("clicks")).join(plan, "domain", "inner")
    first, after = (_first_rank(F.col("group") + number) for number in (0, 1))
    one = F.when(F.col("groups") == 1, F.col("user_hash"))
    return counted.withColumns(
        {
            "first": first,
            "size": after - first,
            "room": after - first - F.col("clicks"),
            # Unique within the domain; for a user with one group it does not depend on the size of the log.
            "group_hash": F.coalesce(one, F.xxhash64("user_hash", "group")),
        }
    )


def _first_rank(group: Column) -> Column:
    """The smallest rank r with r * groups div items = group."""
    return divide(group * F.col("items") + F.col("groups") - 1, F.col("groups"))


def _draw(clicks: DataFrame, taken: DataFrame, seed: int, carried: Sequence[str]) -> DataFrame:
    """Draw for each group the first `take` unclicked items of a walk through its items: item_rank.

    The first take + clicks items of the walk are sufficient.
    """
    needed = taken.select(*_GROUP, "group_hash", "first", "size", "clicks", "take", "copies")
    length = F.least("size", F.col("take") + F.col("clicks"))
    path = walk(seed, F.col("group_hash"), F.col("domain_hash"), size=F.col("size"), length=length)
    clicked = F.transform("clicked", lambda click: click["item_rank"] - F.col("first"))
    draws = F.slice(F.array_except(path, clicked), 1, F.col("take").cast("int"))
    return (
        clicks.groupBy(*_GROUP)
        .agg(F.sort_array(F.collect_list(F.struct("key", "item_rank", *carried))).alias("clicked"))
        .join(needed, [*_GROUP], "inner")
        .withColumn("draws", F.transform(draws, _with_click(carried)))
        .select("user", "user_hash", "domain", "domain_hash", "first", _copy(), F.explode("draws").alias("draw"))
        .withColumn("item_rank", F.col("first") + F.col("draw.rank"))
        .select("*", *(F.col(f"draw.{name}").alias(name) for name in carried))
        .drop("draw", "first")
    )


def _with_click(carried: Sequence[str]) -> Callable[[Column, Column], Column]:
    """A function from a draw and its number to a struct with the carried columns of a click; clicks take turns."""

    def take(rank: Column, number: Column) -> Column:
        click = F.get("clicked", F.pmod(number, F.col("clicks")).cast("int"))
        return F.struct(rank.alias("rank"), *(click[name].alias(name) for name in carried))

    return take
