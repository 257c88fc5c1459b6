"""Examples on disk: split and shard of each row, one sorted file per split and shard."""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.lake import ExamplesSettings, ShardSettings
from mamdr_core.lake.core.few import local_frame, small
from mamdr_core.lake.core.hashing import hash64, partition_keys
from mamdr_core.lake.examples.packing import Packing
from mamdr_core.lake.examples.splits import split_column
from mamdr_core.lake.examples.windows import Window
from schemas import SPLITS, Table

MOST_PLACES = 4096
"""So many files have a task each; of more, a third of the tasks have none, and the others two or three."""


def assign_shards(
    rows: DataFrame, rows_n: Mapping[int, int], packing: Packing, settings: ExamplesSettings, window: Window
) -> DataFrame:
    """Add `shard`, and `split` where the window does not decide it.

    A domain in several shards is spread over them by its rows' keys.

    Args:
        rows: encoded, of domains of the packing.
        rows_n: all examples of each domain, with those that are kept.
        packing: shards of each domain.
        settings: of the split.
        window: of the examples.
    """
    placed = [(domain, rows_n[domain], list(shards)) for domain, shards in packing.shards.items() if domain in rows_n]
    domains = local_frame(rows.sparkSession, placed, "domain int, domain_rows bigint, shards array<int>")
    part = F.pmod(hash64("shard", F.col("key")), F.size("shards")).cast("int")
    rows = rows.join(small(domains), "domain", "inner").withColumn("shard", F.get("shards", part))
    if not window.decides_split:
        rows = rows.withColumn("split", split_column(settings.split, settings.seed, F.col("domain_rows")))
    return rows.drop("domain_rows", "shards")


def lay_out(examples: DataFrame, shards: int, table: Table) -> DataFrame:
    """All rows of a split and shard on one task, in the order in which the table is declared to be sorted.

    The writer must keep a file open for every split and shard on a task (`writing`): one that sorts by them first
    would lose the order inside them.
    """
    order, number, files = "_order", F.col("shard"), shards
    if "split" in table.partition_by:
        files = len(SPLITS) * shards
        number += shards * (F.array_position(F.array(*map(F.lit, SPLITS)), F.col("split")) - 1).cast("int")
    if files <= MOST_PLACES:
        keys = ",".join(map(str, partition_keys(files)))
        number = F.get(F.expr(f"array({keys})"), number)
    return (
        examples.repartition(files, number)
        .withColumn(order, _first_64_bits(F.col("domain"), F.col("key")))
        .sortWithinPartitions(order, *table.sort_by)
        .drop(order)
    )


def writing(settings: ShardSettings, shards: int) -> dict[str, str | int]:
    """Settings of the session under which what `lay_out` made is written: in its order, in row groups of that size."""
    return {
        "spark.sql.maxConcurrentOutputFileWriters": len(SPLITS) * shards,
        "parquet.block.size": settings.row_group_mb << 20,
        # Windows and later builds pass over files by their days and loads, whatever the cluster's default is.
        "spark.databricks.delta.stats.collect": "true",
        # Rows that come need not be of the loads whose rows go.
        "spark.databricks.delta.replaceWhere.constraintCheck.enabled": "false",
    }


def _first_64_bits(domain: Column, key: Column) -> Column:
    """A number that rises with (domain, key): Spark compares numbers, and rows only where these are equal."""
    return F.shiftleft((domain + 1).cast("long"), 32) + F.shiftright(key, 32) + F.lit(2**31)
