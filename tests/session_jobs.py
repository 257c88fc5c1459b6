"""Runs jobs in the tests' session, which has started and compiled what each would start and compile again."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
from pyspark.sql import SparkSession

from mamdr_core.lake.core import session, tables


@contextmanager
def jobs_in(spark: SparkSession) -> Iterator[pytest.MonkeyPatch]:
    """Jobs that start within the block use this session, and leave it running."""
    with pytest.MonkeyPatch.context() as patched:
        for opener in (tables, session):  # of jobs on a lake, and of those that only write logs
            patched.setattr(opener, "spark_session", lambda _: nullcontext(spark))
        yield patched
