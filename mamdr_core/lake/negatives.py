"""Sampled negatives for logs of positives only (the paper's appendix A.1), without a domain on one task.

Each user of a domain draws items of the domain that it never clicked there. How many is its share, by clicks, of the
domain's negatives, exact to the row; a user with too few items left passes the rest to the others. Which ones is a walk
through a pseudo-random permutation of the domain's items, so that no item comes twice and no draw is ever repeated.
All is decided by hashes of ids and the seed.
"""

from collections.abc import Sequence
from functools import lru_cache

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mamdr_core.lake.caching import Keep
from mamdr_core.lake.hashing import bucket, hash64, uniform

PLAN = ("domain", "positives", "items", "negatives", "parts")
"""Columns of a plan: per domain its pairs, distinct items, wanted negatives, and parts for running totals."""
_STEPS = 256
_LARGEST_INT = 2**31
_PART = "_part"


def sample_negatives(pairs: DataFrame, plan: DataFrame, seed: int, carried: Sequence[str], keep: Keep) -> DataFrame:
    """Draw the planned negatives.

    Args:
        pairs: clicked pairs, each once: user, item, domain, user_hash, item_hash, domain_hash, key, and `carried`.
        plan: PLAN, one row per domain; small. `negatives` at most users * items - positives of the domain.
        seed: decides the draws, together with the ids' hashes.
        carried: columns that a negative takes from a click of its user in the domain (its day and features).
        keep: keeps frames that are used twice until the result has been written.

    Returns:
        user, item, domain, their hashes, and `carried`; exactly `negatives` rows a domain, none clicked, none twice.
    """
    catalogue = rank_items(pairs, plan)
    groups = keep(_by_user(pairs, catalogue, plan, carried))
    taken = _share_out(groups)
    drawn = _walk(taken, seed).select("user", "user_hash", "domain", "domain_hash", F.explode("draws").alias("draw"))
    return (
        drawn.withColumn("item_rank", F.col("draw.item_rank"))
        .join(catalogue, ["domain", "item_rank"], "inner")
        .select(
            *("user", "item", "domain", "user_hash", "item_hash", "domain_hash"),
            *(F.col(f"draw.click.{name}").alias(name) for name in carried),
        )
    )


def rank_items(pairs: DataFrame, plan: DataFrame) -> DataFrame:
    """The items of each domain in an order decided by their hashes: domain, item, item_hash, item_rank from 0."""
    items = pairs.select("domain", "item", "item_hash").distinct().withColumn("one", F.lit(1))
    parts = plan.select("domain", "parts")
    ranked = running_total(items.join(F.broadcast(parts), "domain", "inner"), "item_hash", "one", "item_rank")
    return ranked.select("domain", "item", "item_hash", "item_rank")


def running_total(rows: DataFrame, order: str, weight: str, to: str) -> DataFrame:
    """Add `to`: the sum of `weight` over the rows of the same domain that come before, by the hash `order`.

    A domain is summed in `parts` ranges of the hash, so that a large one is not sorted on one task; the result does not
    depend on their number.
    """
    parted = rows.withColumn(_PART, bucket(F.col(order), F.col("parts")))
    before = Window.partitionBy("domain").orderBy(_PART).rowsBetween(Window.unboundedPreceding, -1)
    # Parts are ranges of the hash read without its sign, so that is how rows are ordered inside them.
    ordered = Window.partitionBy("domain", _PART).orderBy(uniform(F.col(order)), order)
    inside = ordered.rowsBetween(Window.unboundedPreceding, -1)
    offsets = (
        parted.groupBy("domain", _PART)
        .agg(F.sum(weight).alias("_sum"))
        .select("domain", _PART, F.coalesce(F.sum("_sum").over(before), F.lit(0)).alias("_offset"))
    )
    total = F.col("_offset") + F.coalesce(F.sum(weight).over(inside), F.lit(0))
    return parted.join(offsets, ["domain", _PART], "inner").withColumn(to, total).drop(_PART, "_offset")


def share(before: Column, weight: Column, whole: Column, amount: Column) -> Column:
    """The part of `amount` that a weight gets of a `whole` of weights, as integers that add up to `amount` exactly.

    Systematic allocation: with running totals c of the weights, floor(c_after * amount / whole) less the same before.
    No weight gets more than it weighs if amount <= whole.
    """
    return _floor_divide((before + weight) * amount, whole) - _floor_divide(before * amount, whole)


def _by_user(pairs: DataFrame, catalogue: DataFrame, plan: DataFrame, carried: Sequence[str]) -> DataFrame:
    """One row per user and domain: `clicked` (ordered by key), `clicks` and `room`, and the domain's plan."""
    ranks = catalogue.select("domain", "item", "item_rank")
    click = F.struct("key", "item_rank", *carried)
    groups = (
        pairs.join(ranks, ["domain", "item"], "inner")
        .groupBy("user", "user_hash", "domain", "domain_hash")
        .agg(F.sort_array(F.collect_list(click)).alias("clicked"))
        .withColumn("clicks", F.size("clicked").cast("long"))
    )
    return groups.join(F.broadcast(plan), "domain", "inner").withColumn("room", F.col("items") - F.col("clicks"))


def _share_out(groups: DataFrame) -> DataFrame:
    """Add `take`, how many negatives each user gets: by clicks; what finds no room goes to the others by their room."""
    placed = running_total(groups, "user_hash", "clicks", "before")
    wanted = share(F.col("before"), F.col("clicks"), F.col("positives"), F.col("negatives"))
    placed = placed.withColumn("wanted", wanted).withColumn("take", F.least("wanted", "room"))
    placed = placed.withColumn("spare", F.col("room") - F.col("take"))
    lacking = (
        placed.groupBy("domain")
        .agg(F.sum(F.col("wanted") - F.col("take")).alias("lacking"), F.sum("spare").alias("all_spare"))
        .where(F.col("lacking") > 0)
    )
    short = lacking.collect()
    if not short:
        return placed
    domains = F.broadcast(groups.sparkSession.createDataFrame(short, lacking.schema))
    more = running_total(placed.join(domains, "domain", "inner").drop("before"), "user_hash", "spare", "before")
    extra = share(F.col("before"), F.col("spare"), F.col("all_spare"), F.least("lacking", "all_spare"))
    topped = more.withColumn("take", F.col("take") + extra).select(placed.columns)
    return placed.join(domains.select("domain"), "domain", "left_anti").unionByName(topped)


def _walk(taken: DataFrame, seed: int) -> DataFrame:
    """Add `draws`: the first `take` items of the user's walk through the domain's items that it has not clicked.

    The walk start + t * step (mod items), with a prime step larger than any number of items, meets every item once; so
    its first take + clicks items hold enough.
    """
    who = (F.lit(seed), F.col("user_hash"), F.col("domain_hash"))
    steps = F.array(*(F.lit(prime) for prime in prime_steps()))
    step = F.get(steps, F.pmod(hash64("step", *who), F.lit(_STEPS)).cast("int"))
    start = F.pmod(hash64("start", *who), F.col("items"))
    last = F.least("items", F.col("take") + F.col("clicks")) - 1
    ready = (
        taken.where(F.col("take") > 0)
        .withColumns({"_step": step, "_start": start})
        .withColumn("_walk", F.sequence(F.lit(0).cast("long"), last))
        .withColumn(
            "_walk", F.transform("_walk", lambda t: F.pmod(F.col("_start") + t * F.col("_step"), F.col("items")))
        )
    )
    clicked = F.transform("clicked", lambda click: click["item_rank"])
    unclicked = F.slice(F.array_except("_walk", clicked), 1, F.col("take").cast("int"))
    draws = F.transform(unclicked, _with_click)
    return ready.withColumn("draws", draws)


def _with_click(rank: Column, number: Column) -> Column:
    click = F.get("clicked", F.pmod(number, F.col("clicks")).cast("int"))
    return F.struct(rank.alias("item_rank"), click.alias("click"))


def _floor_divide(number: Column, by: Column) -> Column:
    return F.call_function("div", number, by)


@lru_cache(maxsize=1)
def prime_steps() -> tuple[int, ...]:
    """The largest primes below 2^31: each is coprime to any smaller number of items."""
    primes: list[int] = []
    candidate = _LARGEST_INT - 1
    while len(primes) < _STEPS:
        if _is_prime(candidate):
            primes.append(candidate)
        candidate -= 2
    return tuple(primes)


def _is_prime(number: int) -> bool:
    """Miller-Rabin, exact for odd numbers from 9 to 3.2e9 with these bases."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        if all(pow(power, 2**turn, number) != number - 1 for turn in range(1, twos)):
            return False
    return True
