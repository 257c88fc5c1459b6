"""A declared table as Delta takes it: the properties that it is made with, and the columns that are written."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mamdr_core.lake.core.log import CONSTRAINT
from schemas import Table
from schemas.spark import spark_schema

SKIP_BY = "delta.dataSkippingStatsColumns"
"""Property of a table: the columns by which files are skipped."""
# By default Delta drops its log after 30 days and forgets after 7 which files left; maintain_lake adjusts both.
_PROPERTIES = {
    "delta.logRetentionDuration": "interval 730 days",
    "delta.deletedFileRetentionDuration": "interval 30 days",
}


def table_properties(table: Table) -> dict[str, str]:
    """Properties of Delta that a table is made with: its constraints, how long Delta keeps what, and `skip_by`."""
    constraints = {f"{CONSTRAINT}{name}": condition for name, condition in table.constraints().items()}
    return {**constraints, **_PROPERTIES, **skipping_properties(table)}


def skipping_properties(table: Table) -> dict[str, str]:
    """The columns whose least and greatest value in each file Delta keeps."""
    if table.skip_by:
        return {SKIP_BY: ",".join(table.skip_by)}
    return {"delta.dataSkippingNumIndexedCols": "0"}


def declared_columns(table: Table, rows: DataFrame) -> DataFrame:
    """Exactly the declared columns of rows, in order, of the declared types, with their descriptions."""
    types = spark_schema(table)
    return rows.select(
        [
            F.col(f"`{name}`").cast(types[name].dataType).alias(name, metadata=types[name].metadata)
            for name in table.column_names
        ]
    )
