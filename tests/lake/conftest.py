"""Small logs and configurations for the tests of the lake."""

import importlib
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from mamdr_core.config.job_config import Config, parse_config
from mamdr_core.lake.maintenance.vacuum import CHECK
from tests.lake.stored import filled_clicks

STRING = pa.string()
LOG = dict.fromkeys(("user", "item", "domain", "label", "ts"), STRING)
CLICKS = {**LOG, "label": pa.int32(), "true_probability": pa.float64(), "day": STRING}


def arrow_table(rows: Iterable[tuple[Any, ...]], types: dict[str, pa.DataType]) -> pa.Table:
    """Rows as a table with columns of these types."""
    listed = list(rows)
    columns = ([row[at] for row in listed] for at in range(len(types)))
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, types.values(), strict=True)], list(types))


@pytest.fixture
def make_clicks(spark: SparkSession) -> Callable[..., DataFrame]:
    """Rows of clicks from (user, item, domain[, label[, ds]]); a row's number is its minute."""

    def make(rows: Iterable[tuple[Any, ...]]) -> DataFrame:
        # Rows given by Arrow are part of the plan, where a list would be tasks that unpickle it at every query.
        frame = spark.createDataFrame(arrow_table(filled_clicks(rows), CLICKS))
        return frame.selectExpr(
            *("user", "item", "domain", "label", "timestamp(ts) event_time", "true_probability"),
            *("0L load", "date(day) ds"),
        )

    return make


@pytest.fixture
def make_log(tmp_path: Path) -> Callable[..., str]:
    """A raw log in Parquet from (user, item, domain, label, ts), all strings; returns its path."""

    def make(rows: Iterable[tuple[Any, ...]], name: str = "raw") -> str:
        path = tmp_path / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        # Under a new name each time, as Spark writes it: no file changes while a frame may still read it.
        file = path / f"part-00000-{uuid.uuid4()}.snappy.parquet"
        pq.write_table(arrow_table(rows, LOG), file)
        return str(path)

    return make


@pytest.fixture
def make_config(lake_root: str) -> Callable[..., Config]:
    """A configuration with lake, input.path and the columns of `make_log`; sections given replace keys.

    Small logs with a row for each rule are mostly rejected rows: the quality gate lets any share of them pass.
    """

    def make(path: str = "", columns: dict[str, str] | None = None, **sections: Any) -> Config:
        named = {"label": "label", "event_time": "timestamp(ts)", **(columns or {})}
        source = {"path": path, "columns": named, **sections.pop("input", {})}
        quality = {"max_rejected": 1.0, **sections.pop("quality", {})}
        return parse_config({"lake": {"root": lake_root}, "input": source, "quality": quality, **sections})

    return make


@pytest.fixture
def unchecked(spark: SparkSession) -> Iterator[None]:
    """Delta's documented switch for retentions below a week."""
    spark.conf.set(CHECK, "false")
    yield
    spark.conf.unset(CHECK)


@pytest.fixture
def jvm_calls(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractContextManager[Counter[str]]]:
    """A context in which Python's `calls` to the JVM are counted, and the `rows` that it collects."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    counting = importlib.import_module("jvm_calls").counting
    return partial(counting, spark)
