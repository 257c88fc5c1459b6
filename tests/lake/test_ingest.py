"""A load replaces exactly its days, keeps every row once, and writes nothing where it cannot be right."""

import logging
from pathlib import Path

import pytest
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from mamdr_core.errors import MamdrError
from mamdr_core.lake.ingest import ingest_clicks
from mamdr_core.lake.tables import Lake

pytestmark = pytest.mark.slow

DAY_1, DAY_2 = "2026-01-01", "2026-01-02"


def rows(day, count=6):
    return [(f"u{n}", f"i{n % 3}", f"d{n % 2}", str(n % 2), f"{day} 10:00:{n:02d}") for n in range(count)]


BAD = [(None, "i", "d", "1", f"{DAY_1} 11:00:00"), ("u", "i", "d", "7", f"{DAY_1} 11:00:01"), ("u", "i", "d", "1", "?")]


def test_every_row_is_counted_and_kept_once(spark, make_log, make_config, lake_root):
    log = [*rows(DAY_1), rows(DAY_1)[0], *rows(DAY_2), *BAD]
    assert ingest_clicks(spark, make_config(make_log(log))) == {
        "rows_in": 16,
        "clicks": 12,
        "rejected": 4,
        "rejected_by_rule": {"event_time_present": 1, "label_binary": 1, "unique_event": 1, "user_present": 1},
        "days": 2,
        "clicks_version": 1,
    }
    lake = Lake(spark, lake_root)
    assert lake.read("clicks").count() == 12
    assert lake.read("clicks_rejected").count() == 4


def test_a_second_run_changes_no_row(spark, make_log, make_config, lake_root):
    config = make_config(make_log([*rows(DAY_1), *rows(DAY_2), *BAD]))
    first = ingest_clicks(spark, config)
    second = ingest_clicks(spark, config)
    assert second == {**first, "clicks_version": first["clicks_version"] + 1}
    lake = Lake(spark, lake_root)
    for table in ("clicks", "clicks_rejected"):
        assertDataFrameEqual(lake.read(table), lake.read(table, 1))


def test_a_later_load_changes_its_own_days_only(spark, make_log, make_config, lake_root):
    ingest_clicks(spark, make_config(make_log([*rows(DAY_1), *rows(DAY_2), *BAD])))
    ingest_clicks(spark, make_config(make_log(rows(DAY_1, count=2), name="late")))
    lake = Lake(spark, lake_root)
    counts = lake.read("clicks").groupBy(F.col("ds").cast("string")).count().collect()
    assert {row[0]: row["count"] for row in counts} == {DAY_1: 2, DAY_2: 6}
    # The day's rejected rows went with it; the row without a day belongs to the other source and stays.
    assert [row["rule"] for row in lake.read("clicks_rejected").collect()] == ["event_time_present"]


def test_a_path_with_a_quote_is_data(spark, make_log, make_config, lake_root):
    config = make_config(make_log([*rows(DAY_1), *BAD], name="it's"))
    for _ in range(2):
        ingest_clicks(spark, config)
    assert Lake(spark, lake_root).read("clicks_rejected").count() == 3


def test_the_order_of_the_input_changes_nothing(spark, make_log, make_config, tmp_path: Path):
    log = [*rows(DAY_1), ("u0", "i0", "d0", "1", f"{DAY_1} 10:00:00"), *BAD]
    frames = []
    for name, ordered in (("a", log), ("b", log[::-1])):
        root = str(tmp_path / f"lake_{name}")
        ingest_clicks(spark, make_config(make_log(ordered, name), lake={"root": root}))
        frames.append(Lake(spark, root).read("clicks"))
    assertDataFrameEqual(*frames)


def test_declared_features_are_read_and_undeclared_columns_are_not(spark, make_log, make_config, lake_root):
    features = [
        {"name": "hour", "kind": "numeric", "expression": "substr(ts, 12, 2)"},
        {"name": "ts", "kind": "categorical"},
    ]
    ingest_clicks(spark, make_config(make_log(rows(DAY_1, count=1)), features=features))
    row = Lake(spark, lake_root).read("clicks").first()
    assert (row["hour"], row["ts"]) == (10.0, f"{DAY_1} 10:00:00")


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


@pytest.mark.parametrize(
    ("log", "columns", "message"),
    [
        ([], {}, "holds no rows"),
        (BAD, {}, "holds no valid row; rows failed event_time_present 1, label_binary 1, user_present 1"),
        (
            rows(DAY_1),
            {"item": "pid"},
            "input.columns.item: 'pid' names no existing column: pid; columns of the log: user",
        ),
        (rows(DAY_1), {"label": "score >= 4"}, "input.columns.label: 'score >= 4' names no existing column: score"),
    ],
)
def test_a_load_that_cannot_be_right_leaves_the_tables_as_they_were(
    spark, make_log, make_config, lake_root, log, columns, message
):
    ingest_clicks(spark, make_config(make_log(rows(DAY_2))))
    lake = Lake(spark, lake_root)
    before = lake.version("clicks"), lake.version("clicks_rejected")
    with pytest.raises(MamdrError) as error:
        ingest_clicks(spark, make_config(make_log(log, name="bad"), columns))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert (lake.version("clicks"), lake.version("clicks_rejected")) == before


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
    monkeypatch.setattr("mamdr_core.lake.ingest.MANY_DAYS", 1)
    with caplog.at_level(logging.WARNING):
        ingest_clicks(spark, make_config(make_log([*rows(DAY_1), *rows(DAY_2)])))
    assert "2 days of about 6 rows make 2 small files: file them by month or year with input.columns.ds" in caplog.text
