"""The session of a job on a lake, whose tables have names in a catalog where `lake.catalog` is set."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake


@contextmanager
def job_session(name: str, config: Config) -> Iterator[SparkSession]:
    """The session of a job that works on the lake.

    With `lake.catalog`, every table that the lake has already gets its name first.

    Raises:
        MamdrError: as `spark_session` and `Lake`.
    """
    with spark_session(name) as spark:
        if config.lake.catalog:
            Lake(spark, config.lake).tables()
        yield spark
