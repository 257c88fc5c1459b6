"""A load keeps every row once, reports its counts, and writes nothing if it cannot be right."""

import logging
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.runtime.errors import MamdrError

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("generated_code")]

DAY_1, DAY_2 = "2026-01-01", "2026-01-02"


def rows(day, count=6):
    return [(f"u{n}", f"i{n % 3}", f"d{n % 2}", str(n % 2), f"{day} 10:00:{n:02d}") for n in range(count)]


BAD = [(None, "i", "d", "1", f"{DAY_1} 11:00:00"), ("u", "i", "d", "7", f"{DAY_1} 11:00:01"), ("u", "i", "d", "1", "?")]


def test_every_row_is_counted_and_kept_once_and_a_second_run_changes_none(
    spark, make_log, make_config, lake_root, tmp_path
):
    """The path has a quote, which is data."""
    log = [*rows(DAY_1), rows(DAY_1)[0], *rows(DAY_2), *BAD]
    config = make_config(make_log(log, name="it's"))
    first = ingest_clicks(spark, config)
    assert first == {
        "rows_in": 16,
        "clicks": 12,
        "rejected": 4,
        "rejected_by_rule": {"event_time_present": 1, "label_binary": 1, "unique_event": 1, "user_present": 1},
        "days": 2,
        "clicks_version": 0,
        "undeclared_columns": [],
        "restored": 0,
        "restorable": 0,
    }
    lake = Lake(spark, lake_root)
    assert lake.read("clicks").count() == 12
    assert lake.read("clicks_rejected").count() == 4
    line = lake.read("loads").drop("load", "started_at", "finished_at").first().asDict()
    assert line == {
        "source": str(tmp_path / "it's"),
        "status": "published",
        "rows_in": 16,
        "clicks": 12,
        "rejected": 4,
        "rejected_by_rule": {"event_time_present": 1, "label_binary": 1, "unique_event": 1, "user_present": 1},
        "days": 2,
        "first_ds": date(2026, 1, 1),
        "last_ds": date(2026, 1, 2),
        "ctr": 6 / 12,
        "reason": None,
        "clicks_version": 0,
    }
    second = ingest_clicks(spark, config)
    assert second == {**first, "clicks_version": first["clicks_version"] + 1}
    for table in ("clicks", "clicks_rejected"):
        assertDataFrameEqual(lake.read(table), lake.read(table, 0))


def test_the_order_of_the_input_changes_nothing(spark, make_log, make_config, tmp_path: Path):
    log = [*rows(DAY_1), ("u0", "i0", "d0", "1", f"{DAY_1} 10:00:00"), *BAD]
    frames = []
    for name, ordered in (("a", log), ("b", log[::-1])):
        root = str(tmp_path / f"lake_{name}")
        ingest_clicks(spark, make_config(make_log(ordered, name), lake={"root": root}))
        frames.append(Lake(spark, root).read("clicks").drop("load"))
    assertDataFrameEqual(*frames)


def test_declared_features_are_read_and_undeclared_columns_are_reported(spark, make_log, make_config, caplog, tmp_path):
    features = [
        {"name": "hour", "kind": "numeric", "expression": "substr(ts, 12, 2)", "minimum": 10},
        {"name": "ts", "kind": "categorical"},
    ]
    wide = spark.read.parquet(make_log([*rows(DAY_1, count=1), ("u", "i", "d", "1", f"{DAY_1} 09:00:00")]))
    wide.withColumns({"device": F.lit("phone"), "city": F.lit("x")}).write.parquet(str(tmp_path / "wide"))
    with caplog.at_level(logging.WARNING):
        figures = ingest_clicks(spark, make_config(str(tmp_path / "wide"), features=features))
    row = Lake(spark, str(tmp_path / "lake")).read("clicks").first()
    assert (row["hour"], row["ts"]) == (10.0, f"{DAY_1} 10:00:00")
    assert figures["rejected_by_rule"] == {"hour_in_range": 1}
    assert figures["undeclared_columns"] == ["city", "device"]
    assert "the log's columns city, device are not used: to keep one, declare it under `features`" in caplog.text


def test_a_feature_declared_later_is_null_before_and_in_logs_without_it(
    spark, make_log, make_config, lake_root, tmp_path
):
    ingest_clicks(spark, make_config(make_log(rows(DAY_1, count=1))))
    features = [{"name": "device", "kind": "categorical", "optional": True}]
    wide = spark.read.parquet(make_log(rows(DAY_2, count=1), "more")).withColumn("device", F.lit("phone"))
    wide.write.parquet(str(tmp_path / "wide"))
    ingest_clicks(spark, make_config(str(tmp_path / "wide"), features=features))
    figures = ingest_clicks(spark, make_config(make_log(rows("2026-01-03", count=1), "old"), features=features))
    assert figures["undeclared_columns"] == []
    devices = {str(row["ds"]): row["device"] for row in Lake(spark, lake_root).read("clicks").collect()}
    assert devices == {DAY_1: None, DAY_2: "phone", "2026-01-03": None}


def test_a_csv_in_gzip_and_a_domain_from_the_file_name(spark, make_config, lake_root, tmp_path: Path):
    for name in ("books", "toys"):
        frame = spark.createDataFrame([("u1", "i1", name)], "uid string, pid string, x string")
        frame.coalesce(1).write.option("header", True).option("compression", "gzip").csv(str(tmp_path / "csv" / name))
    config = make_config(
        input={
            "path": str(tmp_path / "csv" / "*" / "*.csv.gz"),
            "format": "csv",
            "options": {"header": "true"},
            "columns": {
                "user": "uid",
                "item": "pid",
                "domain": "split(_metadata.file_path, '/')[size(split(_metadata.file_path, '/')) - 2]",
            },
        }
    )
    ingest_clicks(spark, config)
    clicks = Lake(spark, lake_root).read("clicks")
    assert sorted(row["domain"] for row in clicks.collect()) == ["books", "toys"]
    assert [str(row["ds"]) for row in clicks.select("ds").distinct().collect()] == ["1970-01-01"]


WRONG = [
    ([], {}, "holds no rows"),
    (BAD, {}, "holds no valid row; rows failed event_time_present 1, label_binary 1, user_present 1"),
    (
        rows(DAY_1),
        {"item": "pid"},
        "input.columns.item: 'pid' names no existing column: pid; columns of the log: user",
    ),
    (rows(DAY_1), {"label": "score >= 4"}, "input.columns.label: 'score >= 4' names no existing column: score"),
]
"""Logs and columns, and what is reported of them."""


def test_a_load_that_cannot_be_right_leaves_the_tables_as_they_were(spark, make_log, make_config, lake_root):
    ingest_clicks(spark, make_config(make_log(rows(DAY_2))))
    lake, reasons = Lake(spark, lake_root), set()
    before = lake.version("clicks"), lake.version("clicks_rejected")
    for number, (log, columns, message) in enumerate(WRONG):
        with pytest.raises(MamdrError) as error:
            ingest_clicks(spark, make_config(make_log(log, name=f"bad {number}"), columns))
        assert message in str(error.value)
        assert "\n" not in str(error.value)
        assert (lake.version("clicks"), lake.version("clicks_rejected")) == before
        if not columns:
            reasons.add(str(error.value).partition(" is not published: ")[2])
    assert len(reasons) == 2
    assert {row["reason"] for row in lake.read("loads").where("status = 'stopped'").collect()} == reasons


def test_a_failed_first_load_makes_no_lake(spark, make_log, make_config, lake_root):
    path = make_log(rows(DAY_1))
    (Path(path) / "part-z.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(MamdrError, match=r"part-z.parquet cannot be read"):
        ingest_clicks(spark, make_config(path))
    assert not Path(lake_root).exists()


def test_a_feature_must_not_take_the_name_of_a_column(spark, make_log, make_config):
    config = make_config(make_log(rows(DAY_1)), features=[{"name": "label", "kind": "numeric"}])
    with pytest.raises(MamdrError, match=r"features.0.name: 'label' is taken"):
        ingest_clicks(spark, config)


def test_many_tiny_days_are_warned_of(spark, make_log, make_config, caplog, monkeypatch):
    monkeypatch.setattr("mamdr_core.lake.ingest.job.MANY_DAYS", 1)
    with caplog.at_level(logging.WARNING):
        ingest_clicks(spark, make_config(make_log([*rows(DAY_1), *rows(DAY_2)])))
    assert "2 days of about 6 rows make 2 small files: file them by month or year with input.columns.ds" in caplog.text
