"""Fixtures that every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from mamdr_core.lake.session import make_session

# Quick compilation suits many small jobs; its code cache is too small for a session that lives this long.
_SUBMIT = (
    "--master local[3] --driver-memory 2g "
    "--driver-java-options '-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m' "
    "--conf spark.sql.shuffle.partitions=2 --conf spark.databricks.delta.snapshotPartitions=1 pyspark-shell"
)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """One small session with Delta for all tests; tests must not stop it."""
    # Comparing frames imports pandas-on-Spark, which warns of this where it is not set.
    os.environ.setdefault("PYARROW_IGNORE_TIMEZONE", "1")
    before = os.environ.get("PYSPARK_SUBMIT_ARGS")
    os.environ["PYSPARK_SUBMIT_ARGS"] = _SUBMIT
    session = make_session("tests")
    if before is None:
        del os.environ["PYSPARK_SUBMIT_ARGS"]
    else:
        os.environ["PYSPARK_SUBMIT_ARGS"] = before
    yield session
    session.stop()


@pytest.fixture
def lake_root(tmp_path: Path) -> str:
    """A lake root that does not exist yet."""
    return str(tmp_path / "lake")
