"""Raw rows are parsed, checked by the declared rules, and divided into clicks and rejected rows."""

import json
from datetime import UTC, date, datetime

import pytest
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.lake import InputColumns, InputSettings
from mamdr_core.lake.ingest.clicks import apply_rules, find_undeclared, parse_rows, select_clicks, select_rejected
from mamdr_core.lake.ingest.rules import rules_for
from mamdr_core.runtime.errors import MamdrError

pytestmark = pytest.mark.slow

TIME = "2026-01-01 10:00:00"
NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
COLUMNS = InputColumns(label="label", event_time="timestamp(ts)")
LOAD = 5


def judge(spark, path, columns=COLUMNS, features=(), **settings):
    parsed = parse_rows(spark.read.parquet(path), columns, features)
    return apply_rules(parsed, rules_for(InputSettings(columns=columns, **settings), features, NOW))


def rejections(checked):
    return select_rejected(checked, LOAD, "raw").collect()


FAULTS = [
    ((None, "i", "d", "1", TIME), "user_present"),
    (("", "i", "d", "1", TIME), "user_present"),
    (("u", None, "d", "1", TIME), "item_present"),
    (("u", "i", "  ", "1", TIME), "domain_present"),
    (("u" * 1025, "i", "d", "1", TIME), "ids_short"),
    (("u", "i\ufffd", "d", "1", TIME), "ids_readable"),
    (("u", "i", "d", None, TIME), "label_present"),
    (("u", "i", "d", "2", TIME), "label_binary"),
    (("u", "i", "d", "0.5", TIME), "label_binary"),
    (("u", "i", "d", "perhaps", TIME), "label_binary"),
    (("u", "i", "d", "yes", TIME), "label_binary"),
    (("u", "i", "d", "1", None), "event_time_present"),
    (("u", "i", "d", "1", "yesterday"), "event_time_present"),
    (("u", "i", "d", "1", "1989-12-31 23:59:59"), "event_time_not_ancient"),
    (("u", "i", "d", "1", "0001-01-01 00:00:00"), "event_time_not_ancient"),
    (("u", "i", "d", "1", "2026-01-03 12:00:00"), "event_time_not_future"),
    (("u", "i", "d", "1", "+200000-01-01 00:00:00"), "event_time_not_future"),
    ((None, None, None, None, None), "user_present"),
]


def test_a_faulty_row_is_rejected_under_the_first_rule_that_it_fails(spark, make_log):
    checked = judge(spark, make_log([*(row for row, _ in FAULTS), ("u9", "i9", "d9", "1", TIME)]))
    rejected = rejections(checked)
    found = {tuple(json.loads(row["row"]).values()): row["rule"] for row in rejected}
    assert found == dict(FAULTS)
    assert {(row["load"], row["source"], row["source_file"].endswith(".parquet")) for row in rejected} == {
        (LOAD, "raw", True)
    }
    assert [(row["user"], row["load"]) for row in select_clicks(checked, LOAD).collect()] == [("u9", LOAD)]


def test_a_row_whose_time_cannot_be_has_no_day_and_another_keeps_its_own(spark, make_log):
    rows = [("u", "i", "d", "1", "1970-01-01 00:00:00"), ("u", "i", "d", "7", TIME)]
    days = {row["rule"]: row["ds"] for row in rejections(judge(spark, make_log(rows)))}
    assert days == {"event_time_not_ancient": None, "label_binary": date(2026, 1, 1)}


def test_clocks_may_be_a_day_ahead_and_the_limits_may_be_set(spark, make_log):
    ahead = "2026-01-03 11:59:59"
    path = make_log([("u", "i", "d", "1", time) for time in ("1980-05-05 00:00:00", TIME, ahead)])

    def valid(**settings):
        kept = select_clicks(judge(spark, path, **settings), LOAD).select(F.date_format("event_time", "yyyy-MM-dd"))
        return sorted(row[0] for row in kept.collect())

    assert valid() == ["2026-01-01", "2026-01-03"]
    assert valid(earliest=date(1980, 5, 5), latest=date(2026, 1, 1)) == ["1980-05-05", "2026-01-01"]


def test_ids_that_are_no_text_in_utf8_are_rejected(spark, tmp_path):
    path = str(tmp_path / "raw")
    columns = "'i' item, 'd' domain, '1' label, '2026-01-01 10:00:00' ts"
    spark.sql(f"SELECT CAST(X'75e9' AS STRING) user, {columns}").write.parquet(path)
    assert [row["rule"] for row in rejections(judge(spark, path))] == ["ids_readable"]


def test_a_numeric_feature_is_held_to_its_range_and_null_passes(spark, tmp_path):
    path = str(tmp_path / "raw")
    columns = "'u' user, 'i' item, 'd' domain, '1' label, '2026-01-01 10:00:00' ts"
    values = "array(-0.5D, 0D, 100D, 100.5D, double('NaN'), double('inf'), null)"
    spark.sql(f"SELECT {columns}, explode({values}) age").coalesce(1).write.parquet(path)
    closed = Feature(name="age", kind="numeric", minimum=0, maximum=100.0)
    checked = judge(spark, path, features=[closed])
    assert {row["age"] for row in select_clicks(checked, LOAD).collect()} == {0.0, 100.0, None}
    assert [row["rule"] for row in rejections(checked)] == ["age_in_range"] * 4
    half_open = judge(spark, path, features=[Feature(name="age", kind="numeric", minimum=0)])
    assert len(rejections(half_open)) == 2, "-0.5 and NaN"
    assert rejections(judge(spark, path, features=[Feature(name="age", kind="numeric")])) == []


def test_text_that_is_no_number_is_rejected_and_blank_text_is_null(spark, tmp_path):
    path = str(tmp_path / "raw")
    columns = "'u' user, 'i' item, 'd' domain, 'TRUE ' label, '2026-01-01 10:00:00' ts"
    values = "array('47,22', '1,234.50', 'N/A', ' ', '', ' 7e1', null)"
    spark.sql(f"SELECT {columns}, explode({values}) age, '1' size").coalesce(1).write.parquet(path)
    features = [Feature(name="size", kind="numeric"), Feature(name="age", kind="numeric", minimum=0)]
    checked = judge(spark, path, features=features)
    assert [(row["age"], row["label"]) for row in select_clicks(checked, LOAD).collect()] == [
        *[(None, 1)] * 2,
        (70.0, 1),
        (None, 1),
    ]
    assert [row["rule"] for row in rejections(checked)] == ["age_readable"] * 3
    lenient = [Feature(name="age", kind="numeric", expression="try_cast(age as double)")]
    assert rejections(judge(spark, path, features=lenient)) == []


def test_ids_that_are_fractions_are_refused_with_the_expression_to_write(spark):
    raw = spark.sql("SELECT 123.0D user, 5BD item, 'd' domain")
    with pytest.raises(MamdrError, match=r"user is of type double, .* write try_cast\(<expression> as bigint\)"):
        parse_rows(raw, InputColumns())
    with pytest.raises(MamdrError, match="item is of type decimal"):
        parse_rows(raw, InputColumns(user="try_cast(user as bigint)", item="item * 1.5"))


def test_a_missing_feature_is_null_if_optional_and_otherwise_an_error(spark, make_log):
    path = make_log([("u", "i", "d", "1", TIME)])
    for expression in ("", "device", "lower(device)", "user_agent.device"):
        features = [Feature(name="device", kind="categorical", expression=expression, optional=True)]
        assert select_clicks(judge(spark, path, features=features), LOAD).first()["device"] is None
    with pytest.raises(MamdrError, match=r"features.0.expression: 'device' names no existing column: device"):
        judge(spark, path, features=[Feature(name="device", kind="categorical")])
    with pytest.raises(MamdrError, match=r"features.0.expression: 'lower\(ts' cannot be parsed"):
        judge(spark, path, features=[Feature(name="x", kind="numeric", expression="lower(ts", optional=True)])


def test_columns_that_no_expression_uses_are_found(spark, make_log, tmp_path):
    raw = spark.read.parquet(make_log([("u", "i", "d", "1", TIME)])).withColumn("device", F.lit("x"))
    raw.withColumns({"_b": F.lit(1), "day": F.lit("x")}).write.partitionBy("day").parquet(str(tmp_path / "wide"))
    wide = spark.read.parquet(str(tmp_path / "wide"))
    assert find_undeclared(wide, COLUMNS, []) == ["_b", "device"]
    assert find_undeclared(wide, InputColumns(), [Feature(name="device", kind="categorical")]) == ["_b", "label", "ts"]


def test_a_label_may_be_a_number_or_a_boolean(spark, make_log):
    labels = {"1": 1, "0": 0, "1.0": 1, "true": 1, "false": 0}
    clicks = select_clicks(judge(spark, make_log([("u", text, "d", text, TIME) for text in labels])), LOAD)
    assert {row["item"]: row["label"] for row in clicks.collect()} == labels


def test_a_label_expression_is_evaluated(spark, make_log):
    path = make_log([("u", "i", "d", "5", TIME), ("u", "j", "d", "3", TIME), ("u", "k", "d", "bad", TIME)])
    checked = judge(spark, path, InputColumns(label="label >= 4", event_time="timestamp(ts)"))
    assert {row["item"]: row["label"] for row in select_clicks(checked, LOAD).collect()} == {"i": 1, "j": 0}
    assert [row["rule"] for row in rejections(checked)] == ["label_present"]


def test_without_a_label_every_row_is_a_click(spark, make_log):
    clicks = select_clicks(judge(spark, make_log([("u", "i", "d", None, TIME)]), InputColumns()), LOAD)
    assert [row["label"] for row in clicks.collect()] == [1]


def test_a_row_is_filed_under_its_day_or_the_declared_one(spark, make_log):
    path = make_log([("u", "i", "d", "1", TIME)])

    def day(columns):
        return str(select_clicks(judge(spark, path, columns), LOAD).first()["ds"])

    assert day(COLUMNS) == "2026-01-01"
    assert (
        day(InputColumns(event_time="timestamp(ts)", ds="trunc(timestamp(ts) + INTERVAL 40 DAY, 'month')"))
        == "2026-02-01"
    )
    assert day(InputColumns()) == "1970-01-01"


def test_every_row_is_in_one_of_the_two(spark, make_log):
    rows = [(None if n % 7 == 0 else f"u{n % 5}", f"i{n % 3}", "d", str(n % 4), TIME) for n in range(200)]
    checked = judge(spark, make_log(rows))
    assert select_clicks(checked, LOAD).count() + len(rejections(checked)) == 200
