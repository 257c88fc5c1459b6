"""Examples on disk: split and shard of each row, one sorted file per split and shard."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.lake.hashing import hash64
from mamdr_core.lake.packing import Packing
from mamdr_core.lake.plans import DomainPlan
from mamdr_core.lake.settings import ExamplesSettings, ShardSettings
from mamdr_core.lake.splits import split_column
from schemas import SPLITS, TABLES


def assign_shards(rows: DataFrame, plans: list[DomainPlan], packing: Packing, settings: ExamplesSettings) -> DataFrame:
    """Add `split` and `shard`; a domain in several shards is spread over them by its rows' keys."""
    placed = [(plan.domain, plan.rows, list(packing.shards[plan.domain])) for plan in plans]
    domains = rows.sparkSession.createDataFrame(placed, "domain int, domain_rows bigint, shards array<int>")
    part = F.pmod(hash64("shard", F.col("key")), F.size("shards")).cast("int")
    return (
        rows.join(F.broadcast(domains), "domain", "inner")
        .withColumn("split", split_column(settings.split, settings.seed, F.col("domain_rows")))
        .withColumn("shard", F.get("shards", part))
        .drop("domain_rows", "shards")
    )


def lay_out(examples: DataFrame, shards: int) -> DataFrame:
    """All rows of a split and shard on one task, in the order in which the table is declared to be sorted.

    The writer must keep a file open for every split and shard on a task (`writing`): one that sorts by them first
    would lose the order inside them.
    """
    table = TABLES["examples"]
    order = "_order"
    return (
        examples.repartition(len(SPLITS) * shards, *table.partition_by)
        .withColumn(order, _first_64_bits(F.col("domain"), F.col("key")))
        .sortWithinPartitions(order, *table.sort_by)
        .drop(order)
    )


def writing(settings: ShardSettings, shards: int) -> dict[str, int]:
    """Settings of the session under which what `lay_out` made is written: in its order, in row groups of that size."""
    return {
        "spark.sql.maxConcurrentOutputFileWriters": len(SPLITS) * shards,
        "parquet.block.size": settings.row_group_mb << 20,
    }


def _first_64_bits(domain: Column, key: Column) -> Column:
    """A number that rises with (domain, key): Spark compares numbers, and rows only where these are equal."""
    return F.shiftleft((domain + 1).cast("long"), 32) + F.shiftright(key, 32) + F.lit(2**31)
