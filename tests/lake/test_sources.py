"""Errors about logs that cannot be read or resolved are one line that names what to correct."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from mamdr_core.config.lake import InputSettings
from mamdr_core.lake.core.sources import CORRUPT, read_input, resolve
from mamdr_core.lake.core.unreadable import readable
from mamdr_core.runtime.errors import MamdrError

pytestmark = pytest.mark.slow


def test_a_path_must_be_named(spark):
    with pytest.raises(MamdrError, match=r"input.path is not set"):
        read_input(spark, InputSettings())


@pytest.mark.parametrize("name", ["nowhere", "nowhere/*.parquet", "{a,b}.parquet"])
def test_a_path_must_match_something(spark, tmp_path: Path, name):
    with pytest.raises(MamdrError, match=r"input.path: .* matches nothing"):
        read_input(spark, InputSettings(path=str(tmp_path / name)))


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_an_empty_folder_holds_no_data(spark, tmp_path: Path, kind):
    with pytest.raises(MamdrError, match=rf"input.path: {tmp_path} holds no {kind} data"):
        read_input(spark, InputSettings(path=str(tmp_path), format=kind))


def test_a_folder_that_is_no_delta_table_is_named(spark, make_log):
    path = make_log([("u", "i", "d", "1", None)])
    with pytest.raises(MamdrError, match=rf"input.path: {path} .*delta"):
        read_input(spark, InputSettings(path=path, format="delta"))


def test_a_delta_table_that_grows_meanwhile_is_read_at_one_version(spark, tmp_path: Path):
    path = str(tmp_path / "raw")
    spark.range(2).write.format("delta").save(path)
    raw = read_input(spark, InputSettings(path=path, format="delta"))
    spark.range(5).write.format("delta").mode("append").save(path)
    assert raw.count() == 2
    newest = read_input(spark, InputSettings(path=path, format="delta"))
    at_first = read_input(spark, InputSettings(path=path, format="delta", options={"versionAsOf": 0}))
    assert (newest.count(), at_first.count()) == (7, 2)


def test_a_declared_schema_takes_the_place_of_inference(spark, tmp_path: Path):
    path = tmp_path / "raw.json"
    path.write_text('{"user": 7, "ts": "2026-01-01 10:00:00", "more": 1}\n{"user": "u", "ts": "never"}\n')
    json = InputSettings(path=str(path), format="json", schema="user string, ts timestamp, age double")
    csv = InputSettings(path=str(tmp_path / "raw.csv"), format="csv", options={"header": True}, schema="a int, b date")
    Path(csv.path).write_text("a,b\n1,2026-01-01\nx,2026-01-02\n")
    parquet = InputSettings(path=str(tmp_path / "raw.parquet"), schema="A bigint, b string")
    spark.sql("SELECT 1L a").write.parquet(f"{parquet.path}/one")
    spark.sql("SELECT 2L a, 'x' b").write.parquet(f"{parquet.path}/two")
    parquet = replace(parquet, path=f"{parquet.path}/*")

    def jobs():
        return len(spark.sparkContext.statusTracker().getJobIdsForGroup(None))

    before = jobs()
    raw, of_csv, of_parquet = (read_input(spark, settings) for settings in (json, csv, parquet))
    assert jobs() == before, "nothing is inferred"
    read_input(spark, replace(json, schema=""))
    assert jobs() > before
    assert [kind for name, kind in raw.dtypes if name != CORRUPT] == ["string", "timestamp", "double"]
    whole, corrupt = raw.orderBy(F.col(CORRUPT).isNotNull()).collect()
    assert (whole["user"], whole["age"], whole[CORRUPT]) == ("7", None, None)
    assert corrupt[CORRUPT] == '{"user": "u", "ts": "never"}'
    assert [row[CORRUPT] for row in of_csv.orderBy("b").collect()] == [None, "x,2026-01-02"]
    assert of_parquet.orderBy("A").collect() == [(1, None), (2, "x")]
    turned = replace(csv, schema="b date, a int")
    differs = r"raw\.csv differs from input\.schema \(Expected: b but found: a\)"
    with pytest.raises(MamdrError, match=differs), readable(turned):
        read_input(spark, turned).collect()
    wrong = replace(parquet, schema="a string")
    mismatch = r"^input\.schema: a is of type string, but INT64 in file:.*/raw\.parquet/.*; declare what the file has"
    with pytest.raises(MamdrError, match=mismatch), readable(wrong):
        read_input(spark, wrong).collect()


@pytest.mark.parametrize(
    ("kind", "schema", "message"),
    [
        ("json", "user strin g", "'user strin g' is not Spark DDL"),
        ("csv", "user strin", "'user strin' is not Spark DDL"),
        ("csv", "string", "'string' names a type without a column"),
        ("json", "user string, User int", "'user string, User int' declares user twice"),
        ("json", " ", "'' declares no column"),
        ("csv", "user string, tags array<string>", r"CSV has no columns of type array<string>; declare tags string"),
        ("parquet", "user string, usr int", "no file of .*raw has a column usr; its last one has user, item, domain"),
    ],
)
def test_a_schema_that_cannot_be_right_is_refused_before_data_is_read(spark, make_log, kind, schema, message):
    path = make_log([("u", "i", "d", "1", None)])
    with pytest.raises(MamdrError, match=f"^input.schema: {message}"):
        read_input(spark, InputSettings(path=path, format=kind, schema=schema))
    with pytest.raises(ValueError, match="a Delta table has its own"):
        InputSettings(path=path, format="delta", schema="user string")


def test_a_corrupt_parquet_file_is_named(spark, make_log):
    path = make_log([("u", "i", "d", "1", None)])
    bad = Path(path) / "part-x.parquet"
    bad.write_bytes(b"PAR1 this is no Parquet PAR1")
    settings = InputSettings(path=path)
    with (
        pytest.raises(MamdrError, match=r"input.path: file:.*part-x.parquet cannot be read as parquet"),
        readable(settings),
    ):
        read_input(spark, settings).collect()


def test_a_truncated_gzip_file_is_named(spark, tmp_path: Path):
    text = gzip.compress("\n".join(f"u{n},i{n * 7919 % 1000}" for n in range(20000)).encode())
    (tmp_path / "log.csv.gz").write_bytes(text[: len(text) // 2])
    settings = InputSettings(path=str(tmp_path / "log.csv.gz"), format="csv")
    with pytest.raises(MamdrError, match=r"log.csv.gz cannot be read as csv"), readable(settings):
        read_input(spark, settings).count()


def test_a_bug_is_not_taken_for_a_faulty_file(spark):
    with pytest.raises(ZeroDivisionError), readable(InputSettings()):
        raise ZeroDivisionError


@pytest.mark.parametrize("expression", ["uid", "uid + 1", "lower(uid)"])
def test_an_expression_over_a_missing_column_is_reported_with_the_known_ones(spark, expression):
    raw = spark.createDataFrame([(1, 2)], "who int, what int")
    with pytest.raises(MamdrError) as error:
        resolve(raw, "input.columns.item", expression)
    assert str(error.value) == (
        f"input.columns.item: {expression!r} names no existing column: uid; columns of the log: who, what"
    )


@pytest.mark.parametrize("expression", ["user", "lower(user)"])
def test_the_account_that_runs_the_job_is_never_taken_for_a_user(spark, expression):
    raw = spark.createDataFrame([(1,)], "who int")
    with pytest.raises(MamdrError, match="names no existing column: user; columns of the log: who"):
        resolve(raw, "input.columns.user", expression)


def test_an_expression_that_cannot_be_parsed_is_named(spark):
    raw = spark.createDataFrame([(1,)], "score int")
    with pytest.raises(MamdrError, match=r"input.columns.label: 'score >=' cannot be parsed"):
        resolve(raw, "input.columns.label", "score >=")
