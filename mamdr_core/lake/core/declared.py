"""Translates the declaration of a table for Delta: table properties, and the columns that are written."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.lake.core.log import CONSTRAINT
from schemas import DeclaredTable
from schemas.spark import spark_schema

SKIP_BY = "delta.dataSkippingStatsColumns"
"""Table property: the columns whose statistics let readers skip files."""
# By default Delta deletes log entries after 30 days and records of removed files after 7; maintain_lake adjusts both.
_PROPERTIES = {
    "delta.logRetentionDuration": "interval 730 days",
    "delta.deletedFileRetentionDuration": "interval 30 days",
}


def table_properties(table: DeclaredTable) -> dict[str, str]:
    """The properties of a new table: its constraints, Delta's retentions, and the columns with statistics."""
    constraints = {f"{CONSTRAINT}{name}": condition for name, condition in table.constraints().items()}
    return {**constraints, **_PROPERTIES, **skipping_properties(table)}


def skipping_properties(table: DeclaredTable) -> dict[str, str]:
    """The property that selects the columns whose minimum and maximum Delta stores for each file."""
    if table.skip_by:
        return {SKIP_BY: ",".join(table.skip_by)}
    return {"delta.dataSkippingNumIndexedCols": "0"}


def declared_columns(table: DeclaredTable, rows: DataFrame) -> DataFrame:
    """Select exactly the declared columns, in order, cast to the declared types, with their descriptions."""
    types = spark_schema(table)
    return rows.select(
        [
            F.col(f"`{name}`").cast(types[name].dataType).alias(name, metadata=types[name].metadata)
            for name in table.column_names
        ]
    )
