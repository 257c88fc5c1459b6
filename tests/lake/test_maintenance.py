"""maintain_lake frees what nobody needs, and never a file of a version that a kept run was trained on."""

import os
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pyspark.sql import functions as F

from mamdr_core.lake.core.features import declared_examples
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.maintenance import job as maintenance
from mamdr_core.lake.maintenance.job import maintain_lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import pin_examples
from schemas import SPLITS, TABLES
from schemas.spark import spark_schema
from tests.lake.runs_and_versions import examples_of, files_of, record, write_versions
from tests.lake.stored import rows_of, sorted_rows, stored, write_clicks

pytestmark = pytest.mark.slow

DAY = 86_400


def everything_below(root):
    return {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")}


def set_back(paths, days):
    """Make files look older."""
    for path in paths:
        os.utime(path, times=(time.time() - days * DAY,) * 2)


def test_what_a_kept_run_was_trained_on_can_be_read_after_its_removal_elsewhere(
    spark, trained_config, make_config, tmp_path, unchecked
):
    root = str(tmp_path / "my lake")
    unread = ("training_runs", "packages", "clicks", "clicks_rejected", "loads")
    shutil.copytree(trained_config.lake.root, root, ignore=shutil.ignore_patterns(*unread))
    lake = Lake(spark, root)
    pinned = pin_examples(spark, root, trained_config.features)
    everything = np.ones(len(pinned.domain_ids), dtype=np.bool_)
    share = Share(pinned, trained_config.features, everything)
    before, vectors = share.columns("train"), share.vectors()
    record(lake, ("kept", "ok", 0, pinned.versions))
    examples, between = lake.read("examples", pinned.versions["examples"]), []
    for _ in range(2):
        lake.overwrite(declared_examples(trained_config.features), examples.withColumn("label", F.lit(0)))
        between.append(lake.version("examples"))
    users = rows_of(root, "users")
    lake.overwrite("users", lake.read("users").withColumn("last_seen", F.lit("2030-01-01").cast("date")))
    for _ in range(2):
        lake.overwrite("user_features", lake.read("user_features").withColumn("vector", F.expr("array(float(0))")))
    unneeded = {path: path.stat().st_size for path in files_of(lake, "examples", between[0])}

    figures = maintain_lake(spark, make_config(lake={"root": root}, maintain={"retention_days": 0}))
    reported = figures["tables"]["examples"]
    assert figures["kept_runs"] == 1
    assert reported["pinned_versions"] == [pinned.versions["examples"]]
    assert (reported["files_deleted"], reported["bytes_freed"]) == (len(unneeded), sum(unneeded.values()))
    assert reported["files_after"] == reported["files_before"] - len(unneeded)
    assert not any(path.exists() for path in unneeded)
    rows = sum(counts.sum() for counts in pinned.counts.values())
    assert stored(root, "examples")["label"].to_pylist() == [0] * rows

    again = pin_examples(spark, root, trained_config.features, pinned.versions)
    share = Share(again, trained_config.features, everything)
    after = share.columns("train")
    assert all(torch.equal(read, vectors[name]) for name, read in share.vectors().items())
    assert all(torch.equal(after.ids[name], before.ids[name]) for name in before.ids)
    assert torch.equal(after.numeric, before.numeric)
    assert torch.equal(after.labels, before.labels)
    assert sorted(map(str, rows_of(root, "users", pinned.versions["users"]))) == sorted(map(str, users))


def test_a_renamed_domain_is_in_the_kept_version_but_not_in_the_newest(spark, lake_root, make_config, unchecked):
    """The domain b becomes a, which exists; b keeps its index, and a rank that owns it has nothing to read."""
    lake, config = Lake(spark, lake_root), make_config(maintain={"retention_days": 0})
    clicks = [(f"u{n % 7}", f"i{n % 5}", "ab"[n % 2], n % 3 // 2) for n in range(40)]
    write_clicks(lake_root, clicks)
    build_examples(spark, config)
    before = pin_examples(spark, lake_root, ())
    record(lake, ("kept", "ok", 0, before.versions))
    write_clicks(lake_root, [(user, item, "a", label) for user, item, _, label in clicks])
    lake.overwrite("examples", examples_of(spark, 0))
    build_examples(spark, config)
    assert maintain_lake(spark, config)["tables"]["examples"]["files_deleted"] > 0
    after = pin_examples(spark, lake_root, ())
    assert before.domain_ids == after.domain_ids
    for pinned, rows in ((before, {"a": 20, "b": 20}), (after, {"a": 40, "b": 0})):
        for number, domain in enumerate(pinned.domain_ids):
            share = Share(pinned, (), np.arange(2) == number)
            assert sum(len(share.columns(split)) for split in SPLITS) == rows[domain]


def test_a_dry_run_changes_nothing_and_reports_what_a_real_one_removes(spark, lake_root, make_config, unchecked):
    lake = Lake(spark, lake_root)
    first, second, _ = write_versions(lake, [1, 2, 3])
    record(lake, ("kept", "ok", 0, {"examples": second}))
    before = everything_below(lake_root)
    foretold = maintain_lake(spark, make_config(maintain={"retention_days": 0, "dry_run": True}))
    assert everything_below(lake_root) == before
    done = maintain_lake(spark, make_config(maintain={"retention_days": 0}))
    assert foretold["dry_run"]
    assert done["tables"]["examples"]["files_deleted"] == len(files_of(lake, "examples", first))
    for name in ("files_deleted", "bytes_freed"):
        assert foretold[name] == done[name] == sum(figures[name] for figures in done["tables"].values()) > 0


def test_small_files_are_joined_but_never_across_the_order_of_examples(spark, lake_root, make_config):
    lake = Lake(spark, lake_root)
    for number in range(4):
        rows = [(f"u{number}", "i", "d", 1, f"2026-01-0{day}") for day in (1, 2)]
        write_clicks(lake_root, rows, replaced=lambda _: False)
        lake.append("examples", examples_of(spark, number))
    clicks, laid_out = sorted_rows(stored(lake_root, "clicks")), files_of(lake, "examples", lake.version("examples"))
    figures = maintain_lake(spark, make_config())
    assert set(figures["tables"]) == {"clicks", "examples"}
    assert figures["tables"]["clicks"]["files_compacted"] == figures["tables"]["clicks"]["files_before"] == 8
    assert len(files_of(lake, "clicks", None)) == 2
    assert sorted_rows(stored(lake_root, "clicks")) == clicks
    assert files_of(lake, "examples", lake.version("examples")) == laid_out
    assert figures["files_deleted"] == 0
    again = maintain_lake(spark, make_config())["tables"]["clicks"]
    assert again["files_compacted"] == 0
    assert again["files_before"] == again["files_after"] == 10, "those that were joined are young"


def test_the_driver_handles_no_file_by_itself(spark, tmp_path, make_config, unchecked, jvm_calls):
    """Files of ten times as many days, as many of them removed, are no more calls and rows of the driver's Python."""
    found = []
    for days in (2, 20):
        lake = Lake(spark, str(tmp_path / f"{days} days"))
        for _ in range(2):
            write_clicks(lake.root, [("u", "i", "d", 1, f"2026-01-{day + 1:02d}") for day in range(days)])
        record(lake, ("kept", "ok", 0, {"clicks": 1}))
        config = make_config(lake={"root": lake.root}, maintain={"retention_days": 0})
        with jvm_calls() as counts:
            figures = maintain_lake(spark, config)["tables"]["clicks"]
        assert (figures["files_before"], figures["files_deleted"], figures["files_after"]) == (2 * days, days, days)
        found.append(counts)
    assert found[1] <= found[0]


def test_young_versions_stay_and_what_a_killed_write_left_goes(spark, lake_root, make_config):
    """The retention is written to the table and may fall again; one below a week needs Delta's own switch."""
    lake = Lake(spark, lake_root)
    first, _ = write_versions(lake, [1, 2])
    folder = Path(lake.path("examples")) / "split=train" / "shard=0"
    old, new = folder / "part-00000-old.c000.snappy.parquet", folder / "part-00000-new.c000.snappy.parquet"
    for path in (old, new):
        path.write_bytes(b"killed in the middle")
    set_back([old], days=40)
    before = everything_below(lake_root)
    with pytest.raises(MamdrError, match=r"maintain.retention_days 6: .*retentionDurationCheck.enabled=false"):
        maintain_lake(spark, make_config(maintain={"retention_days": 6}))
    assert everything_below(lake_root) == before
    for days, removed in ((90, (0, 0)), (10, (1, 20))):
        figures = maintain_lake(spark, make_config(maintain={"retention_days": days}))
        assert (figures["files_deleted"], figures["bytes_freed"]) == removed
        properties = spark.sql(f"DESCRIBE DETAIL delta.`{lake.path('examples')}`").first()["properties"]
        assert properties["delta.deletedFileRetentionDuration"] == f"interval {days} days"
        assert properties["delta.logRetentionDuration"] == "interval 730 days"
    assert (old.exists(), new.exists()) == (False, True)
    assert lake.read("examples", first).count() == 4


def test_files_that_left_long_ago_go_although_others_are_pinned(spark, lake_root, make_config):
    """A kept run's version is spared at any age; Delta has forgotten by then that its files ever were the table's."""
    lake = Lake(spark, lake_root)
    first, second, _ = write_versions(lake, [1, 2, 3])
    record(lake, ("kept", "ok", 50, {"examples": first}))
    needed, unneeded = files_of(lake, "examples", first), files_of(lake, "examples", second)
    spark.sql(
        f"ALTER TABLE delta.`{lake.path('examples')}` SET TBLPROPERTIES "
        "('delta.deletedFileRetentionDuration' = 'interval 0 days')"
    )
    set_back(needed | unneeded, days=40)
    assert maintain_lake(spark, make_config(maintain={"dry_run": True}))["files_deleted"] == len(unneeded)
    assert lake.read("examples", first).groupBy("domain").count().collect() == [(1, 4)]


def test_a_lake_without_runs_or_tables_is_maintained(spark, lake_root, make_config):
    assert maintain_lake(spark, make_config()) == {
        "dry_run": False,
        "kept_runs": 0,
        "packages_removed": 0,
        "leftovers_removed": 0,
        "score_batches_removed": 0,
        "files_deleted": 0,
        "bytes_freed": 0,
        "tables": {},
    }
    assert not Path(lake_root).exists()


def test_batches_of_scores_go_a_year_after_they_were_written(spark, lake_root, make_config):
    lake, table = Lake(spark, lake_root), TABLES["scores"]
    log = Path(lake_root) / "scores" / "_delta_log"
    for days, batch in ((366, "last year"), (364, "within a year"), (0, "today")):
        row = {"run_id": "r", "batch": batch, "user_known": True, "item_known": True, "domain_known": True}
        row |= {"specific": False, "score": 0.5}
        values = [tuple(row.get(name) for name in table.column_names)]
        lake.append(table, local_frame(spark, values, spark_schema(table)))
        commit = max(log.glob("*.json"))
        written = int((time.time() - days * DAY) * 1000)
        commit.write_text(re.sub(r'("modificationTime":)\d+', rf"\g<1>{written}", commit.read_text()))
        commit.with_name(f".{commit.name}.crc").unlink()
        spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    assert maintain_lake(spark, make_config(maintain={"dry_run": True}))["score_batches_removed"] == 1
    assert lake.read("scores").count() == 3
    assert maintain_lake(spark, make_config())["score_batches_removed"] == 1
    assert {row["batch"] for row in lake.read("scores").collect()} == {"within a year", "today"}
    maintain_lake(spark, make_config(maintain={"scores_days": 0}))
    assert lake.read("scores").count() == 2


def test_a_version_that_was_lost_before_stops_nothing(spark, lake_root, make_config, unchecked, caplog):
    lake = Lake(spark, lake_root)
    first, second = write_versions(lake, [1, 2])
    record(lake, ("dreaming", "ok", 0, {"examples": 99, "items": 3}), ("kept", "ok", 0, {"examples": first}))
    maintain_lake(spark, make_config(maintain={"retention_days": 0}))
    assert "examples version 99, an input of a kept run, was lost before" in caplog.text
    assert [lake.read("examples", version).count() for version in (first, second)] == [4, 4]


def test_the_log_of_a_pinned_version_outlives_deltas_own_clean_up(spark, lake_root, make_config):
    """A lake made without our properties; its first version is 400 days old when Delta next cleans its log."""
    lake = Lake(spark, lake_root)
    lost = Lake(spark, f"{lake_root}_control")
    for each in (lake, lost):
        first, _ = write_versions(each, [1, 2])
        table = f"delta.`{each.path('examples')}`"
        spark.sql(f"ALTER TABLE {table} UNSET TBLPROPERTIES ('delta.logRetentionDuration')")
        spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('delta.checkpointInterval' = '2')")
        for log in Path(each.path("examples"), "_delta_log").glob("*.json"):
            set_back([log], days=400 - int(log.stem))
    record(lake, ("kept", "ok", 400, {"examples": first}))
    maintain_lake(spark, make_config())
    properties = spark.sql(f"DESCRIBE DETAIL delta.`{lake.path('examples')}`").first()["properties"]
    assert properties["delta.logRetentionDuration"] == "interval 1095 days"
    for each in (lake, lost):
        for domain in (3, 4, 5):  # by Delta, which then cleans the log
            each.overwrite("examples", examples_of(spark, domain))
    assert lake.read("examples", first).count() == 4
    with pytest.raises(Exception, match="Cannot time travel Delta table to version 0"):
        lost.read("examples", first)


def test_a_maintenance_that_was_killed_is_finished_by_the_next(spark, lake_root, make_config, unchecked, monkeypatch):
    lake = Lake(spark, lake_root)
    first, second, _ = write_versions(lake, [1, 2, 3])
    record(lake, ("kept", "ok", 0, {"examples": first}))
    unneeded = files_of(lake, "examples", second)

    def killed(*_):
        min(unneeded).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(maintenance, "vacuum", killed)
        with pytest.raises(KeyboardInterrupt):
            maintain_lake(spark, make_config(maintain={"retention_days": 0}))
    maintain_lake(spark, make_config(maintain={"retention_days": 0}))
    assert not any(path.exists() for path in unneeded)
    assert {row["domain"] for row in rows_of(lake_root, "examples", first)} == {1}
    assert {row["domain"] for row in rows_of(lake_root, "examples")} == {3}


def test_jobs_may_write_meanwhile(spark, lake_root, make_config, make_clicks):
    lake = Lake(spark, lake_root)
    for number in range(3):
        write_clicks(lake_root, [(f"u{number}", "i", "d")], replaced=lambda _: False)

    def write():
        for number in range(3, 8):
            lake.append("clicks", make_clicks([(f"u{number}", "i", "d")]))

    writer = threading.Thread(target=write)
    writer.start()
    maintain_lake(spark, make_config())
    writer.join()
    maintain_lake(spark, make_config())
    assert {row["user"] for row in rows_of(lake_root, "clicks")} == {f"u{number}" for number in range(8)}
    assert len(files_of(lake, "clicks", None)) == 1


def test_every_table_that_exists_is_known_by_name(spark, lake_root, make_clicks):
    lake = Lake(spark, lake_root)
    lake.append("clicks", make_clicks([("u", "i", "d")]))
    vocabulary = TABLES["users"].with_columns(())
    lake.append(
        vocabulary, spark.sql("SELECT 'a' id, 0 index, DATE'2026-01-01' first_seen, DATE'2026-01-01' last_seen")
    )
    shutil.copytree(lake.path("users"), lake.path_of("vocabulary_city"))
    Path(lake.path_of("items", "_delta_log")).mkdir(parents=True)
    assert [table.name for table in lake.tables()] == ["clicks", "users", "vocabulary_city"]
