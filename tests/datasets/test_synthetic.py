"""generate_logs writes the rows of the model with Spark and overwrites only its own output."""

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from mamdr_core.config.datasets import SyntheticSettings
from mamdr_core.config.job_config import parse_config
from mamdr_core.datasets import synthetic
from mamdr_core.datasets.synthetic import generate_logs, synthetic_logs
from mamdr_core.datasets.world import draw_rows, make_world, published_vectors
from mamdr_core.runtime.errors import MamdrError

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SMALL = {"rows": 3000, "domains": 5, "users": 100, "items": 60, "days": 2, "vectors": 4, "rotate": True}
SMALL |= {"rank": 2, "user_effect": 0.3, "item_effect": 0.3, "pair_effect": 0.3, "position_effect": 0.3}


@pytest.fixture
def config(tmp_path: Path):
    return parse_config({"input": {"path": str(tmp_path / "raw")}, "synthetic": SMALL})


def test_logs_and_vectors_are_written_as_described(spark, config, tmp_path: Path):
    figures = generate_logs(spark, config)
    raw = spark.read.parquet(config.input.path)
    assert raw.columns == ["user", "item", "domain", "label", "event_time", "true_probability", "day"]
    assert sorted(path.name for path in (tmp_path / "raw").iterdir() if path.is_dir()) == [
        "day=2026-01-01",
        "day=2026-01-02",
    ]
    clicks = raw.where("label = 1").count()
    assert figures == {
        "rows": 3000,
        "clicks": clicks,
        "days": 2,
        "path": str(tmp_path / "raw"),
        "vectors_path": str(tmp_path / "raw_vectors"),
    }
    assert raw.where(F.to_date("event_time") != F.col("day")).count() == 0
    row = spark.read.parquet(str(tmp_path / "raw_vectors" / "items")).where("id = 'i7'").first()
    assert row["vector"] == published_vectors(config.synthetic, "item", np.array([7]))[0].astype(np.float32).tolist()


def test_rows_do_not_depend_on_their_distribution_over_tasks(spark, monkeypatch):
    settings = SyntheticSettings(**SMALL)
    logs = synthetic_logs(spark, settings)
    first = draw_rows(make_world(settings), np.arange(3))
    found = logs.limit(3).collect()
    assert [row["user"] for row in found] == [f"u{user}" for user in first.user]
    assert [row["true_probability"] for row in found] == first.true_probability.tolist()
    monkeypatch.setattr(synthetic, "BLOCK", 700)
    assertDataFrameEqual(logs, synthetic_logs(spark, settings))


def test_earlier_output_is_replaced(spark, config):
    generate_logs(spark, config)
    first = spark.read.parquet(config.input.path).collect()
    generate_logs(spark, config)
    assert sorted(first) == sorted(spark.read.parquet(config.input.path).collect())


@pytest.mark.parametrize("name", ["raw", "raw_vectors"])
def test_a_folder_with_something_else_is_left_alone(spark, config, tmp_path: Path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("precious")
    with pytest.raises(MamdrError, match=rf"{name} holds something that generate_logs did not write"):
        generate_logs(spark, config)
    assert (tmp_path / name / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("source", "message"),
    [({}, r"input.path is not set"), ({"path": "x", "format": "csv"}, r"generate_logs writes parquet, got csv")],
)
def test_output_settings_are_checked(spark, source, message):
    with pytest.raises(MamdrError, match=message):
        generate_logs(spark, parse_config({"input": source}))
