"""The Spark session of a job on a lake, whose tables are named in a catalog if `lake.catalog` is set."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake


@contextmanager
def job_session(name: str, config: Config) -> Iterator[SparkSession]:
    """A Spark session for a job on the lake; with `lake.catalog`, existing tables are first named in the catalog.

    Raises:
        MamdrError: see `spark_session` and `Lake`.
    """
    with spark_session(name) as spark:
        if config.lake.catalog:
            Lake(spark, config.lake).tables()
        yield spark
