"""Fixtures that every test may use."""

import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config, parse_config, with_values
from mamdr_core.datasets.synthetic import generate_logs
from mamdr_core.lake.core.session import make_session, overriding
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks

if TYPE_CHECKING:
    from mamdr_core.training.worker import RankTask

# Quick compilation halves the CPU time of the small jobs that tests start, a collector of one thread takes a tenth off,
# and not verifying the byte code of Spark's JARs a quarter (22.5 s against 16.5 of an empty job). In the session, which
# runs for many minutes, thorough compilation would still take half of the CPU time of the first few.
# Hadoop runs chmod and readlink for each file that it writes, of Delta's log too; vfork takes half of their time away.
_QUICK = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote "
    "-Djdk.lang.Process.launchMechanism=VFORK"
)
os.environ.setdefault("SPARK_SUBMIT_OPTS", _QUICK)
# In a young generation of this size the collections of a file took 11 s instead of 19.
_SESSION_OPTS = f"{_QUICK} -XX:ReservedCodeCacheSize=400m -Xmn600m"
# Its rows are too few for code that is generated for each query: without it a test takes a quarter less. Most jobs that
# tests start generate it, and tests that use `generated_code`. What is generated all the same, for frames that are
# kept, is that of more than 100 queries.
# MAMDR_TEST_MASTER puts the tests that are marked `cluster` on a cluster: make test-cluster.
_INTERPRETED = "--conf spark.sql.codegen.wholeStage=false --conf spark.sql.codegen.factoryMode=NO_CODEGEN "
_SUBMIT = (
    f"--master {os.environ.get('MAMDR_TEST_MASTER', 'local[3]')} --driver-memory 2g "
    "--conf spark.sql.shuffle.partitions=2 --conf spark.databricks.delta.snapshotPartitions=1 "
    "--conf spark.sql.codegen.cache.maxEntries=5000 "
    + ("" if "MAMDR_TEST_MASTER" in os.environ else _INTERPRETED)
    + "pyspark-shell"
)

_MINUTES = (
    "test_resuming.py", "test_increments.py", "test_mamdr_daily.py", "test_maintenance.py", "test_ranks.py",
    "test_compare.py", "test_sweep.py", "test_loads.py", "test_contracts.py", "test_kills.py", "test_own_code.py",
)  # fmt: skip
"""Files that take minutes: they begin first, so that no worker waits for one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by file."""
    items.sort(key=lambda item: _MINUTES.index(item.path.name) if item.path.name in _MINUTES else len(_MINUTES))


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """One small session with Delta for all tests; tests must not stop it."""
    # Comparing frames imports pandas-on-Spark, which warns of this where it is not set.
    os.environ.setdefault("PYARROW_IGNORE_TIMEZONE", "1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYSPARK_SUBMIT_ARGS", _SUBMIT)
        patched.setenv("SPARK_SUBMIT_OPTS", _SESSION_OPTS)
        session = make_session("tests")
    yield session
    session.stop()


@pytest.fixture
def generated_code(spark: SparkSession) -> Iterator[None]:
    """Queries run by code that Spark generates, as in jobs."""
    with overriding(spark, {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}):
        yield


@pytest.fixture
def lake_root(tmp_path: Path) -> str:
    """A lake root that does not exist yet."""
    return str(tmp_path / "lake")


@pytest.fixture(scope="session")
def trained_config(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration whose lake holds examples of five domains with vectors, a numeric and a hashed feature."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the first worker makes the examples of all
        shared = shared.parent
    root = shared / "training"
    raw = str(root / "raw")
    vectors = [
        {"name": f"{of}_vector", "kind": "vector", "of": of, "size": 6, "path": f"{raw}_vectors/{of}s"}
        for of in ("user", "item")
    ]
    config = parse_config(
        {
            "lake": {"root": str(root / "lake")},
            "input": {
                "path": raw,
                "columns": {
                    "label": "label",
                    "event_time": "event_time",
                    "true_probability": "true_probability",
                },
            },
            "synthetic": {"rows": 4000, "domains": 5, "users": 200, "items": 80, "vectors": 6, "size_spread": 0.7},
            "features": [
                *vectors,
                {"name": "hour", "kind": "numeric", "expression": "hour(event_time)"},
                {
                    "name": "weekday",
                    "kind": "categorical",
                    "expression": "dayofweek(event_time)",
                    "buckets": 7,
                    "size": 2,
                },
            ],
            "examples": {"shards": {"count": 2}},
            "model": {"embedding_dim": 4, "hidden": [8], "dropout": 0.3},
            "train": {
                "method": "mamdr",
                "epochs": 2,
                "rounds_per_epoch": 4,
                "validate_every": 2,
                "batch_size": 128,
                "device": "cpu",
                "dr": {"k": 2, "support_rows": 64, "schedule": "rounds"},
            },
        }
    )
    with (shared / "training.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "built").exists():
            shutil.rmtree(root, ignore_errors=True)  # of a worker that failed
            generate_logs(spark, config)
            ingest_clicks(spark, config)
            build_examples(spark, config)
            (root / "built").touch()
    own = tmp_path_factory.mktemp("trained") / "lake"
    shutil.copytree(config.lake.root, own)
    return with_values(config, {"lake.root": str(own)})


@pytest.fixture(scope="session")
def make_task(
    spark: SparkSession, trained_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., "RankTask"]:
    """A task with settings of train replaced, over ranks 0 to W - 1."""
    import numpy as np  # with torch below it takes seconds, which most tests do without

    from mamdr_core.parallel.placement import place_domains
    from mamdr_core.shards.pinned import pin_examples
    from mamdr_core.training.worker import RankTask

    packages, numbers = tmp_path_factory.mktemp("packages"), itertools.count()
    pinned = pin_examples(spark, trained_config.lake.root, trained_config.features)

    def make(ranks: int, owner: list[int] | None = None, **train: object) -> RankTask:
        config = replace(trained_config, train=replace(trained_config.train, ranks=ranks, **train))
        placed = place_domains(pinned.counts["train"], ranks) if owner is None else np.array(owner)
        return RankTask(config, pinned, placed, str(packages / str(next(numbers))))

    return make


@pytest.fixture
def traced_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the backend aot_eager: it fixes sizes as compiled steps do and generates no code, which takes minutes."""
    import torch  # takes seconds, which most tests do without

    compiled = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda call, dynamic, options: compiled(call, dynamic=dynamic, backend="aot_eager")
    )
