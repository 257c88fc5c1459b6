"""Joining the small files of examples that days leave: those of a week, later of a month, without changing a row."""

import logging
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.errors import MamdrError
from mamdr_core.lake.increments import MERGED, STATE, last_build
from mamdr_core.lake.layout import lay_out, writing
from mamdr_core.lake.progress import progress
from mamdr_core.lake.session import overriding, settings_for
from mamdr_core.lake.settings import ShardSettings
from mamdr_core.lake.tables import Lake
from schemas import TABLES, Column, Table, without_split

logger = logging.getLogger(__name__)

MANY = 4
"""A week or month whose rows of a split and shard lie in so many files is written anew."""


@dataclass(frozen=True)
class Period:
    """Days that are over: first, last, how many files hold rows of them, shards, and their rows."""

    first: date
    last: date
    files: int
    shards: int
    rows: int

    def __str__(self) -> str:
        return f"{self.first} to {self.last}"


def merge_examples(spark: SparkSession, lake: Lake, settings: ShardSettings) -> int:
    """Write each week or month of many small files anew, in files of at most `rows` rows; returns how many were joined.

    Each is one commit, which changes no row: readers, pinned versions and the next build are not concerned. Days that
    another job is writing stay as they are until the next time.

    Raises:
        MamdrError: another job came between in a way that cannot be taken back.
    """
    joined = 0
    for period in find_periods(lake.read("examples")):
        with progress(spark, "examples"), overriding(spark, settings_for(spark, period.rows)):
            if _write(spark, lake, period, settings):
                joined += period.files
            else:
                logger.warning("examples: another job is writing them; %s stays in its files", period)
    return joined


def find_periods(examples: DataFrame) -> list[Period]:
    """The months before that of the newest day, and the weeks before its week, whose rows lie in many files."""
    found = examples.agg(F.max("ds")).first()
    newest = found[0] if found else None
    if newest is None:
        return []
    week, month = newest - timedelta(newest.weekday()), newest.replace(day=1)
    of_week = F.greatest(F.trunc("ds", "week"), F.lit(month))
    period = F.when(F.col("ds") < F.lit(month), F.trunc("ds", "month")).otherwise(of_week)
    places = [name for name in ("split", "shard") if name in examples.columns]
    files = (
        examples.where(F.col("ds") < F.lit(max(week, month)))
        .groupBy(period.alias("first"), *places, F.col("_metadata.file_path").alias("file"))
        .agg(F.count("*").alias("rows"))
        .groupBy("first", *places)
        .agg(F.count("*").alias("files"), F.sum("rows").alias("rows"))
        .groupBy("first")
        .agg(F.sum("files"), F.max("files"), F.max("shard"), F.sum("rows"))
        .orderBy("first")
    )
    return [
        Period(first, _last_day(first, month), files, shard + 1, rows)
        for first, files, most, shard, rows in files.collect()
        if most >= MANY
    ]


def _last_day(first: date, month: date) -> date:
    if first < month:
        return (first + timedelta(31)).replace(day=1) - timedelta(1)
    return first + timedelta(6 - first.weekday())


def _write(spark: SparkSession, lake: Lake, period: Period, settings: ShardSettings) -> bool:
    """Write the rows of a period anew; whether no other job came between."""
    number, version = last_build(lake).number + 1, lake.version("examples")
    examples = lake.read("examples", version)
    days = f"ds BETWEEN DATE'{period.first}' AND DATE'{period.last}'"
    table = _declared(examples.schema)
    note = {"job": "maintain_lake", MERGED: days, STATE: {"number": number}}
    files = {"spark.sql.files.maxRecordsPerFile": settings.rows}
    with overriding(spark, {**writing(settings, period.shards), **files}):
        rows = lay_out(examples.where(days), period.shards, table)
        if not lake.write_next(table, rows, note, number, days):
            return False
    made, written = lake.written("examples", note)
    if (made, written) == (version + 1, period.rows):
        return True
    if not lake.undo("examples", made - 1):
        raise MamdrError(f"examples: version {made} was made while another job wrote; set examples.rebuild: true")
    return False


def _declared(schema: T.StructType) -> Table:
    """The declaration of examples as they are, with the features that they were built with."""
    base = TABLES["examples"] if "split" in schema.names else without_split(TABLES["examples"])
    features = [field for field in schema if field.name not in base.column_names]
    return base.with_columns(
        Column(field.name, "int" if isinstance(field.dataType, T.IntegerType) else "float", "declared feature", True)
        for field in features
    )
