"""Raw rows are parsed, judged by the declared rules, and divided into clicks and rejected rows."""

import json

import pytest
from pyspark.sql import functions as F

from mamdr_core.lake.clicks import judge_rows, parse_rows, rules_for, select_clicks, select_rejected
from mamdr_core.lake.settings import InputColumns

pytestmark = pytest.mark.slow

TIME = "2026-01-01 10:00:00"
COLUMNS = InputColumns(label="label", event_time="timestamp(ts)")


def judge(spark, path, columns=COLUMNS, features=()):
    parsed = parse_rows(spark.read.parquet(path), columns, features)
    return judge_rows(parsed, rules_for(columns), unique_events=bool(columns.event_time))


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ((None, "i", "d", "1", TIME), "user_present"),
        (("", "i", "d", "1", TIME), "user_present"),
        (("u", None, "d", "1", TIME), "item_present"),
        (("u", "i", "  ", "1", TIME), "domain_present"),
        (("u", "i", "d", None, TIME), "label_present"),
        (("u", "i", "d", "2", TIME), "label_binary"),
        (("u", "i", "d", "0.5", TIME), "label_binary"),
        (("u", "i", "d", "perhaps", TIME), "label_binary"),
        (("u", "i", "d", "1", None), "event_time_present"),
        (("u", "i", "d", "1", "yesterday"), "event_time_present"),
        ((None, None, None, None, None), "user_present"),
    ],
)
def test_a_faulty_row_is_rejected_under_the_first_rule_that_it_fails(spark, make_log, row, rule):
    judged = judge(spark, make_log([row, ("u9", "i9", "d9", "1", TIME)]))
    rejected = select_rejected(judged, "raw").collect()
    assert [(found["rule"], found["source"]) for found in rejected] == [(rule, "raw")]
    assert json.loads(rejected[0]["row"]) == dict(zip(("user", "item", "domain", "label", "ts"), row, strict=True))
    assert rejected[0]["source_file"].endswith(".parquet")
    assert [found["user"] for found in select_clicks(judged).collect()] == ["u9"]


@pytest.mark.parametrize(("text", "label"), [("1", 1), ("0", 0), ("1.0", 1), ("true", 1), ("false", 0)])
def test_a_label_may_be_a_number_or_a_boolean(spark, make_log, text, label):
    clicks = select_clicks(judge(spark, make_log([("u", "i", "d", text, TIME)])))
    assert [row["label"] for row in clicks.collect()] == [label]


def test_a_label_expression_is_evaluated(spark, make_log):
    path = make_log([("u", "i", "d", "5", TIME), ("u", "j", "d", "3", TIME), ("u", "k", "d", "bad", TIME)])
    judged = judge(spark, path, InputColumns(label="label >= 4", event_time="timestamp(ts)"))
    assert {row["item"]: row["label"] for row in select_clicks(judged).collect()} == {"i": 1, "j": 0}
    assert [row["rule"] for row in select_rejected(judged, "raw").collect()] == ["label_present"]


def test_without_a_label_every_row_is_a_click(spark, make_log):
    clicks = select_clicks(judge(spark, make_log([("u", "i", "d", None, TIME)]), InputColumns()))
    assert [row["label"] for row in clicks.collect()] == [1]


def test_a_repeated_event_is_kept_once_and_a_click_wins(spark, make_log):
    rows = [("u", "i", "d", "0", TIME), ("u", "i", "d", "1", TIME), ("u", "i", "d", "1", "2026-01-01 11:00:00")]
    for order in (rows, rows[::-1]):
        judged = judge(spark, make_log(order))
        kept = select_clicks(judged).orderBy("event_time").select("label", F.hour("event_time")).collect()
        assert [tuple(row) for row in kept] == [(1, 10), (1, 11)]
        rejected = select_rejected(judged, "raw").collect()
        assert [row["rule"] for row in rejected] == ["unique_event"]
        assert json.loads(rejected[0]["row"])["label"] == "0"


def test_without_a_time_rows_cannot_repeat_each_other(spark, make_log):
    clicks = select_clicks(judge(spark, make_log([("u", "i", "d", "1", None)] * 2), InputColumns(label="label")))
    assert clicks.count() == 2


def test_a_row_is_filed_under_its_day_or_the_declared_one(spark, make_log):
    path = make_log([("u", "i", "d", "1", TIME)])

    def day(columns):
        return str(select_clicks(judge(spark, path, columns)).first()["ds"])

    assert day(COLUMNS) == "2026-01-01"
    assert (
        day(InputColumns(event_time="timestamp(ts)", ds="trunc(timestamp(ts) + INTERVAL 40 DAY, 'month')"))
        == "2026-02-01"
    )
    assert day(InputColumns()) == "1970-01-01"


def test_every_row_is_in_one_of_the_two(spark, make_log):
    rows = [(None if n % 7 == 0 else f"u{n % 5}", f"i{n % 3}", "d", str(n % 4), TIME) for n in range(200)]
    judged = judge(spark, make_log(rows))
    assert select_clicks(judged).count() + select_rejected(judged, "raw").count() == 200
