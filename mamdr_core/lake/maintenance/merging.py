"""Merges the small files of examples: files of days to weeks, later to months, without changing a row."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import cast

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config.lake import ShardSettings
from mamdr_core.lake.core.notes import MERGED
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import overriding, settings_for
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.increments import STATE, last_build
from mamdr_core.lake.examples.layout import lay_out, writer_settings
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES, Column, ColumnType, DeclaredTable, without_split

logger = logging.getLogger(__name__)

MANY = 4
"""Minimum number of files of a split and shard for which a week or month is rewritten."""


@dataclass(frozen=True)
class Period:
    """A past week or month: first and last day, and its numbers of files, shards and rows."""

    first: date
    last: date
    files: int
    shards: int
    rows: int

    @property
    def condition(self) -> str:
        """Condition of the rows, in SQL."""
        return f"ds BETWEEN DATE'{self.first}' AND DATE'{self.last}'"


def merge_examples(lake: Lake, settings: ShardSettings) -> int:
    """Rewrite weeks and months with many small files to files of at most `settings.rows` rows.

    The single commit changes no rows, so readers and pinned versions are unaffected; a concurrent build starts again.
    If the build commits first, the files are merged by the next run.

    Returns:
        The number of merged files.

    Raises:
        MamdrError: another job has written at the same time, and the commit cannot be undone.
    """
    periods = find_periods(lake.read("examples"), settings.rows)
    if not periods:
        return 0
    rows = sum(period.rows for period in periods)
    with progress(lake.spark, "examples"), overriding(lake.spark, settings_for(lake.spark, rows)):
        if _write(lake, periods, settings):
            return sum(period.files for period in periods)
    logger.warning("examples: another job is writing them; their small files stay until the next run")
    return 0


def find_periods(examples: DataFrame, file_rows: int) -> list[Period]:
    """The months before the newest day's month, and the weeks before its week, whose rows are in too many files.

    Args:
        file_rows: maximum number of rows of a rewritten file.
    """
    newest = examples.agg(F.max("ds")).collect()[0][0]
    if newest is None:
        return []
    week, month = newest - timedelta(newest.weekday()), newest.replace(day=1)
    of_week = F.greatest(F.trunc("ds", "week"), F.lit(month))
    period = F.when(F.col("ds") < F.lit(month), F.trunc("ds", "month")).otherwise(of_week)
    place = [name for name in ("split", "shard") if name in examples.columns]
    needed = 2 * F.ceil(F.col("rows") / file_rows)
    files = (
        examples.where(F.col("ds") < F.lit(max(week, month)))
        .groupBy(period.alias("first"), *place, F.col("_metadata.file_path").alias("file"))
        .agg(F.count("*").alias("rows"))
        .groupBy("first", *place)
        .agg(F.count("*").alias("files"), F.sum("rows").alias("rows"))
        .groupBy("first")
        .agg(
            F.sum("files").alias("files"),
            (F.max("shard") + 1).alias("shards"),
            F.sum("rows").alias("rows"),
            F.count_if((F.col("files") >= MANY) & (F.col("files") > needed)).alias("scattered"),
        )
        .where("scattered > 0")
        .orderBy("first")
    )
    return [
        Period(row["first"], _last_day(row["first"], month), row["files"], row["shards"], row["rows"])
        for row in files.collect()
    ]


def _last_day(first: date, month: date) -> date:
    if first < month:
        return (first + timedelta(31)).replace(day=1) - timedelta(1)
    return first + timedelta(6 - first.weekday())


def _write(lake: Lake, periods: Sequence[Period], settings: ShardSettings) -> bool:
    """Rewrite the rows of periods; returns false if another job has committed first."""
    number, version = last_build(lake.log("examples")).number + 1, lake.version("examples")
    examples = lake.read("examples", version)
    days, shards = " OR ".join(period.condition for period in periods), max(period.shards for period in periods)
    table = _declared(examples.schema)
    note = {"job": "maintain_lake", MERGED: len(periods), STATE: {"number": number}, "merge": uuid.uuid4().hex}
    files = {"spark.sql.files.maxRecordsPerFile": settings.rows}
    with overriding(lake.spark, {**writer_settings(settings, shards), **files}):
        rows = lay_out(examples.where(days), shards, table)
        if not lake.write_next(table, rows, note, number, days):
            return False
    made, written = lake.written("examples", note)
    if (made, written) == (version + 1, sum(period.rows for period in periods)):
        return True
    if not lake.undo("examples", note):
        raise MamdrError(f"examples: version {made} was made while another job wrote; set examples.rebuild: true")
    return False


def _declared(schema: T.StructType) -> DeclaredTable:
    """The declaration of the current examples, with the features of their build."""
    base = TABLES["examples"] if "split" in schema.names else without_split(TABLES["examples"])
    features = [field for field in schema if field.name not in base.column_names]
    return base.with_columns(
        Column(field.name, cast(ColumnType, field.dataType.simpleString()), "declared feature", True)
        for field in features
    )
