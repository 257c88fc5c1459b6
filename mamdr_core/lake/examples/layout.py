"""Layout of examples on disk: assigns split and shard to rows, and writes one sorted file per split and shard."""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.lake import ExamplesSettings, ShardSettings
from mamdr_core.lake.core.constants import constants
from mamdr_core.lake.core.few import local_frame, small
from mamdr_core.lake.core.hashing import hash64, partition_keys
from mamdr_core.lake.examples.packing import Packing
from mamdr_core.lake.examples.splits import split_column
from mamdr_core.lake.examples.windows import Window
from schemas import SPLITS, DeclaredTable

MAX_FILES = 4096
"""Maximum number of files for which each file has exactly one task; with more, a third of the tasks have no file."""


def assign_shards(
    rows: DataFrame, rows_n: Mapping[int, int], packing: Packing, settings: ExamplesSettings, window: Window
) -> DataFrame:
    """Add `shard`, and `split` unless the window decides it.

    Rows of a domain with several shards are distributed by their keys.

    Args:
        rows: encoded rows of domains of the packing.
        rows_n: number of examples by domain, including those that are kept.
    """
    placed = [(domain, rows_n[domain], list(shards)) for domain, shards in packing.shards.items() if domain in rows_n]
    domains = local_frame(rows.sparkSession, placed, "domain int, domain_rows bigint, shards array<int>")
    part = F.pmod(hash64("shard", F.col("key")), F.size("shards")).cast("int")
    rows = rows.join(small(domains), "domain", "inner").withColumn("shard", F.get("shards", part))
    if not window.decides_split:
        rows = rows.withColumn("split", split_column(settings.split, settings.seed, F.col("domain_rows")))
    return rows.drop("domain_rows", "shards")


def lay_out(examples: DataFrame, shards: int, table: DeclaredTable) -> DataFrame:
    """Bring all rows of a split and shard to one task, in the declared order of the table.

    They must be written with `writer_settings`, which keep a file open for every split and shard of a task. Otherwise
    Spark would sort rows by split and shard first, and lose the order within them.
    """
    order, number, files = "_order", F.col("shard"), shards
    if "split" in table.partition_by:
        files = len(SPLITS) * shards
        number += shards * (F.array_position(F.array(*map(F.lit, SPLITS)), F.col("split")) - 1).cast("int")
    if files <= MAX_FILES:
        number = F.get(constants(partition_keys(files)), number)
    return (
        examples.repartition(files, number)
        .withColumn(order, _first_64_bits(F.col("domain"), F.col("key")))
        .sortWithinPartitions(order, *table.sort_by)
        .drop(order)
    )


def writer_settings(settings: ShardSettings, shards: int) -> dict[str, str | int]:
    """Settings of the session for writing the result of `lay_out` in its order, with row groups of the given size."""
    return {
        "spark.sql.maxConcurrentOutputFileWriters": len(SPLITS) * shards,
        "parquet.block.size": settings.row_group_mb << 20,
        # Windows and later builds skip files by statistics of days and loads, whatever the cluster's default is.
        "spark.databricks.delta.stats.collect": "true",
        # New rows need not satisfy the condition of the replaced rows.
        "spark.databricks.delta.replaceWhere.constraintCheck.enabled": "false",
    }


def _first_64_bits(domain: Column, key: Column) -> Column:
    """A number in the order of (domain, key); Spark compares numbers faster than rows, which decide only ties."""
    return F.shiftleft((domain + 1).cast("long"), 32) + F.shiftright(key, 32) + F.lit(2**31)
