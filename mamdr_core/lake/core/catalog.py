"""Names for the lake's tables in a catalog of Spark's, such as Hive's metastore or Unity: `lake.catalog`."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from mamdr_core.config import Config
from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.sql import identifier, literal
from mamdr_core.lake.core.tables import Lake

_COMMENT = "MAMDR lake "
"""Before the lake's root, the comment of a schema that was made for it."""


@contextmanager
def job_session(name: str, config: Config) -> Iterator[SparkSession]:
    """The session of a job that works on the lake, whose tables have their names in `lake.catalog` when it has ended.

    Raises:
        MamdrError: as `spark_session` and `register_tables`.
    """
    with spark_session(name) as spark:
        yield spark
        if config.lake.catalog:
            register_tables(spark, Lake(spark, config.lake.root), config.lake.catalog)


def register_tables(spark: SparkSession, lake: Lake, schema: str) -> list[str]:
    """Make every table of the lake an external table of a schema, where it is not yet; returns the new names.

    Args:
        spark: the session.
        lake: whose tables stay where they are.
        schema: its name, or the catalog's and its own: `mamdr`, `unity.mamdr`. It is made where it does not exist.

    Raises:
        MamdrError: the schema was made for another lake.
    """
    quoted = ".".join(identifier(part) for part in schema.split("."))
    spark.sql(f"CREATE SCHEMA IF NOT EXISTS {quoted} COMMENT {literal(_COMMENT + lake.root)}")
    described = {row[0]: row[1] for row in spark.sql(f"DESCRIBE SCHEMA {quoted}").collect()}
    comment = described.get("Comment") or ""
    root = comment.removeprefix(_COMMENT)
    if comment.startswith(_COMMENT) and root != lake.root:
        raise MamdrError(f"lake.catalog: {schema} names the tables of {root}, not {lake.root}")
    known = {row["tableName"] for row in spark.sql(f"SHOW TABLES IN {quoted}").collect()}
    new = [table.name for table in lake.tables() if table.name not in known]
    for name in new:
        location = literal(f"{lake.root}/{name}")
        spark.sql(f"CREATE TABLE IF NOT EXISTS {quoted}.{identifier(name)} USING DELTA LOCATION {location}")
    return new
