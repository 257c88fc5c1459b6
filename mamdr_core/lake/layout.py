"""Examples on disk: split and shard of each row, one sorted file per split and shard."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.lake.hashing import hash64
from mamdr_core.lake.packing import Packing
from mamdr_core.lake.plans import DomainPlan
from mamdr_core.lake.settings import ExamplesSettings
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
    """One partition per split and shard, in the order in which the table is declared to be sorted."""
    table = TABLES["examples"]
    return examples.repartition(len(SPLITS) * shards, *table.partition_by).sortWithinPartitions(
        *table.partition_by, *table.sort_by
    )
