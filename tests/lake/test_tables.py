"""A lake creates tables as declared, keeps their rules, and touches nothing that is not its own."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from mamdr_core.config.features import Feature
from mamdr_core.lake.core import tables
from mamdr_core.lake.core.session import overriding, storage_errors
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.records import record_run
from schemas import TABLES, clicks_table

pytestmark = pytest.mark.slow

RUN = {
    "status": "ok",
    "method": "dn",
    "model": "mlp",
    "config": "",
    "input_versions": {},
    "started_at": datetime(2026, 1, 1, tzinfo=UTC),
}


def test_a_table_is_created_as_declared(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    assert not lake.exists("clicks")
    lake.append("clicks", make_clicks([("u", "i", "d")]))
    detail = spark.sql(f"DESCRIBE DETAIL delta.`{lake.path('clicks')}`").first()
    assert detail["partitionColumns"] == ["ds"]
    properties = detail["properties"]
    assert properties["delta.constraints.label_binary"] == "label IN (0, 1)"
    constraints = {f"delta.constraints.{name}" for name in TABLES["clicks"].constraints()}
    assert set(properties) - constraints == {
        "delta.logRetentionDuration",
        "delta.deletedFileRetentionDuration",
        "delta.dataSkippingStatsColumns",
    }
    assert properties["delta.dataSkippingStatsColumns"] == "event_time,load"
    assert set(properties) > constraints
    assert lake.read("clicks").columns == list(TABLES["clicks"].column_names)


@pytest.mark.parametrize(("column", "value"), [("label", 2), ("user", None), ("item", " ")])
def test_delta_refuses_a_row_that_breaks_a_rule(spark, lake_root, make_clicks, column, value):
    lake = Lake(spark, lake_root)
    rows = make_clicks([("u", "i", "d")])
    lake.append("clicks", rows)
    with pytest.raises(Exception, match=r"DELTA_VIOLATE_CONSTRAINT|DELTA_NOT_NULL_CONSTRAINT"):
        lake.append("clicks", rows.withColumn(column, F.lit(value)))
    assert lake.read("clicks").count() == 1


def test_a_write_selects_the_declared_columns_in_order(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    rows = make_clicks([("u", "i", "d")])
    lake.append("clicks", rows.select("ds", F.lit(7).alias("more"), *rows.columns[:-1]))
    assertDataFrameEqual(lake.read("clicks"), rows)


def test_earlier_versions_stay_readable_and_the_note_is_stamped(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    lake.append("clicks", make_clicks([("u", "i", "d")]))
    first = lake.version("clicks")
    lake.overwrite("clicks", make_clicks([("v", "i", "d")]), {"job": "test"})
    assert lake.version("clicks") == first + 1
    assert [row["user"] for row in lake.read("clicks", first).collect()] == ["u"]
    assert [row["user"] for row in lake.read("clicks").collect()] == ["v"]
    newest = spark.sql(f"DESCRIBE HISTORY delta.`{lake.path('clicks')}` LIMIT 1").first()
    assert newest["userMetadata"] == '{"job": "test"}'


def test_overwrite_where_replaces_only_what_it_names(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    lake.append("clicks", make_clicks([("u", "i", "d", 1, "2026-01-01"), ("u", "i", "d", 1, "2026-01-02")]))
    lake.overwrite_where("clicks", make_clicks([("v", "i", "d", 0, "2026-01-02")]), "ds = DATE'2026-01-02'")
    rows = lake.read("clicks").select("user", "label", F.col("ds").cast("string")).orderBy("ds").collect()
    assert [tuple(row) for row in rows] == [("u", 1, "2026-01-01"), ("v", 0, "2026-01-02")]


def test_an_overwrite_replaces_all_partitions_whatever_the_clusters_default_is(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    lake.append("clicks", make_clicks([("a", "i", "d", 1, "2026-01-01"), ("b", "i", "d", 1, "2026-01-02")]))
    with overriding(spark, {"spark.sql.sources.partitionOverwriteMode": "dynamic"}):
        lake.overwrite("clicks", make_clicks([("c", "i", "d", 1, "2026-01-02")]))
    assert [row["user"] for row in lake.read("clicks").collect()] == ["c"]


def test_a_newly_declared_feature_becomes_a_column_and_old_rows_keep_null(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    lake.append("clicks", make_clicks([("u", "i", "d")]))
    table = clicks_table([Feature(name="age", kind="numeric")])
    lake.append(table, make_clicks([("v", "i", "d")]).withColumn("age", F.lit(3.0)))
    assert {row["user"]: row["age"] for row in lake.read("clicks").collect()} == {"u": None, "v": 3.0}


def test_a_missing_table_names_the_job_that_makes_it(spark, lake_root):
    with pytest.raises(MamdrError, match=r"lake .*/lake has no table clicks yet: run jobs/ingest_clicks.py first"):
        Lake(spark, lake_root).read("clicks")


def test_a_folder_with_something_else_is_refused_and_left_alone(spark, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(MamdrError, match=r"lake.root: .* contains other files \(thesis.tex\)"):
        Lake(spark, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_root_that_is_a_file_is_refused(spark, tmp_path: Path):
    (tmp_path / "lake").write_text("")
    with pytest.raises(MamdrError, match="is a file; name a folder"):
        Lake(spark, str(tmp_path / "lake"))


def test_an_existing_lake_with_other_folders_is_opened_again(spark, lake_root, make_clicks):
    Lake(spark, lake_root).append("clicks", make_clicks([("u", "i", "d")]))
    (Path(lake_root) / "packages").mkdir()
    assert Lake(spark, lake_root).exists("clicks")


def test_a_lake_without_its_marker_is_known_by_its_tables(spark, lake_root, make_clicks):
    Lake(spark, lake_root).append("clicks", make_clicks([("u", "i", "d")]))
    (Path(lake_root) / "_mamdr_lake").unlink()
    assert Lake(spark, lake_root).exists("clicks")


def test_a_table_whose_maker_was_killed_before_its_first_commit_is_made(spark, lake_root, make_clicks):
    log = Path(lake_root) / "clicks" / "_delta_log"
    log.mkdir(parents=True)
    left = log / ".00000000000000000000.json.5b.tmp"
    left.write_text("{")
    lake = Lake(spark, lake_root)
    assert not lake.exists("clicks")
    lake.append("clicks", make_clicks([("u", "i", "d")]))
    assert lake.read("clicks").count() == 1
    assert left.exists()  # it may be another job's, at this moment


@pytest.mark.parametrize("mode", ["append", "overwrite", "create"])
def test_a_table_that_another_job_makes_at_the_same_moment_is_written_to(
    spark, lake_root, make_clicks, monkeypatch, mode
):
    """The other's first commit is there after this job has found no table."""
    other, ours = Lake(spark, lake_root), Lake(spark, lake_root)
    properties, found = tables.table_properties, []

    def overtaken(table):
        if not found:
            found.append(True)
            other.append("clicks", make_clicks([("a", "i", "d")]))
        return properties(table)

    monkeypatch.setattr(tables, "table_properties", overtaken)
    rows = make_clicks([("b", "i", "d")])
    if mode == "create":
        ours.create("clicks")
    else:
        getattr(ours, mode)("clicks", rows)
    users = {row["user"] for row in other.read("clicks").collect()}
    assert users == {"append": {"a", "b"}, "overwrite": {"b"}, "create": {"a"}}[mode]


def test_a_first_write_that_is_taken_back_leaves_an_empty_table(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    assert lake.undo("clicks", {"by": "nobody"})
    lake.append("clicks", make_clicks([("a", "i", "d")]), {"by": "us"})
    assert lake.undo("clicks", {"by": "us"})
    assert lake.read("clicks").isEmpty()
    assert not lake.undo("clicks", {"by": "us"}), "another commit, the emptying, is newer"


def test_a_connection_that_breaks_off_is_one_line():
    text = "Task failed\nCaused by: org.apache.http.ConnectionClosedException: Premature end of the message body"
    with pytest.raises(MamdrError, match=r"^the connection to an object store was lost; run it"), storage_errors():
        raise PySparkException(text)


def test_a_damaged_log_is_one_line_that_names_it(spark, lake_root, make_clicks):
    for user in "abc":
        Lake(spark, lake_root).append("clicks", make_clicks([(user, "i", "d")]))
    file = Path(lake_root) / "clicks" / "_delta_log" / f"{1:020}.json"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    damaged = r"\S+{}: the log of the table is damaged \({}\); restore its files from a backup of the lake"
    with pytest.raises(MamdrError, match=damaged.format(file, "a file is missing or cannot be read")), storage_errors():
        Lake(spark, lake_root).read("clicks").count()
    file.unlink()
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    gap = r"Versions \(0, 2\) are not contiguous"
    with pytest.raises(MamdrError, match=damaged.format(file.parent, gap).removeprefix(r"\S+")):
        Lake(spark, lake_root).exists("clicks")


@pytest.fixture
def small_disk(tmp_path: Path):
    """A folder that is a disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False).returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # Spark may still hold a file open


def test_a_full_disk_is_one_line_and_leaves_the_table_as_it_was(spark, small_disk, make_clicks):
    lake = Lake(spark, str(small_disk / "lake"))
    lake.append("clicks", make_clicks([("a", "i", "d")]))
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "rest").write_bytes(bytes(1 << 18))
    with pytest.raises(MamdrError, match=r"the disk is full while \S+/lake/clicks was written: free"), storage_errors():
        lake.append("clicks", make_clicks([("b", "i", "d")]))
    (small_disk / "rest").unlink()
    lake.append("clicks", make_clicks([("c", "i", "d")]))
    assert {row["user"] for row in lake.read("clicks").collect()} == {"a", "c"}


def test_a_relative_root_and_a_uri_name_the_same_lake(spark, lake_root, make_clicks):
    Lake(spark, f"file:{lake_root}").append("clicks", make_clicks([("u", "i", "d")]))
    assert Lake(spark, lake_root).path("clicks") == Lake(spark, f"file:{lake_root}").path("clicks")
    assert Lake(spark, lake_root).version("clicks") == 0


def test_jobs_that_merge_into_one_table_at_once_all_succeed(spark, lake_root):
    """As two comparisons on one lake do: each run's row is there, once."""

    def record(number):
        for _ in range(2):
            record_run(Lake(spark, lake_root), {**RUN, "run_id": f"r{number}"})

    record("first")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(record, range(2)))
    runs = Lake(spark, lake_root).read("training_runs").select("run_id").collect()
    assert sorted(row["run_id"] for row in runs) == ["r0", "r1", "rfirst"]
