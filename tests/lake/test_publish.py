"""A load is published whole or not at all, in whatever way its rows are written."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest import job as ingest
from mamdr_core.lake.ingest import publish
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.maintenance.job import maintain_lake
from mamdr_core.runtime.errors import MamdrError
from tests.lake.stored import rows_of, sorted_rows, state_of, stored

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

DAYS = ("2026-01-01", "2026-01-02")


def rows(count=8, label="1"):
    return [(f"u{n}", f"i{n % 3}", "d", label, f"{DAYS[n % 2]} 10:00:{n:02d}") for n in range(count)]


def clicks_of(root):
    return Counter((row["user"], row["label"], str(row["ds"])) for row in rows_of(root, "clicks"))


@pytest.fixture
def many_files(make_log, tmp_path: Path):
    """A log in three files, which Spark reads in as many tasks, with a repeated event."""
    for part in range(3):
        made = Path(make_log([*rows()[part::3], rows()[0]], f"part{part}"))
        target = tmp_path / "raw" / f"part-{part}.parquet"
        target.parent.mkdir(exist_ok=True)
        next(made.glob("*.parquet")).rename(target)
    return str(tmp_path / "raw")


def test_rows_written_as_read_or_gathered_by_day_make_equal_tables(
    spark, many_files, make_config, tmp_path: Path, monkeypatch
):
    before = spark.conf.get("spark.sql.maxConcurrentOutputFileWriters")
    spark.conf.set("spark.sql.files.openCostInBytes", str(128 << 20))
    roots = {}
    for name, file_rows in (("direct", 1), ("together", 100_000)):
        monkeypatch.setattr(publish, "FILE_ROWS", file_rows)
        config = make_config(many_files, lake={"root": str(tmp_path / name)})
        assert ingest_clicks(spark, config)["rejected_by_rule"] == {"unique_event": 3}
        roots[name] = config.lake.root
    spark.conf.unset("spark.sql.files.openCostInBytes")
    for table in ("clicks", "clicks_rejected"):
        assert sorted_rows(stored(roots["direct"], table)) == sorted_rows(stored(roots["together"], table)) != []
    assert len(state_of(roots["together"], "clicks").files) == 2
    assert len(state_of(roots["direct"], "clicks").files) > 2
    assert spark.conf.get("spark.sql.maxConcurrentOutputFileWriters") == before


@pytest.mark.parametrize("table", ["clicks", "clicks_rejected"])
def test_a_log_that_changes_while_it_is_read_is_not_published(
    spark, make_log, make_config, lake_root, monkeypatch, table
):
    faulty = [("", "i", "d", "1", f"{DAYS[0]} 11:00:00")]
    config = make_config(make_log([*rows(), *faulty]))
    ingest_clicks(spark, config)
    names = ("clicks", "clicks_rejected")
    before = {name: sorted_rows(stored(lake_root, name)) for name in names}
    make_log([*rows(6), *faulty])
    check = ingest._check_quality
    other = make_config(make_log([("other", "i", "d", "1", f"{DAYS[0]} 13:00:00")], "other"))

    def grow(*arguments):
        check(*arguments)
        monkeypatch.setattr(ingest, "_check_quality", check)
        if table == "clicks_rejected":  # before this job writes clicks, another job does
            ingest_clicks(spark, other)
        more = [("late", "i", "d", "1", f"{DAYS[0]} 12:00:00")] if table == "clicks" else faulty
        made = Path(make_log(more, "more"))
        old = next(Path(config.input.path).glob("*.parquet"))
        next(made.glob("*.parquet")).replace(old)

    monkeypatch.setattr(ingest, "_check_quality", grow)
    with pytest.raises(MamdrError, match=r"input.path: the log changed while it was read: \d+ rows were counted for"):
        ingest_clicks(spark, config)
    left = {name: sorted_rows(stored(lake_root, name)) for name in names}
    users = [row["user"] for row in left["clicks"]]
    assert users.count("other") == len(stored(lake_root, "loads")) - 1 == int(table == "clicks_rejected")
    left["clicks"] = [row for row in left["clicks"] if row["user"] != "other"]
    assert left == before


def test_a_job_that_was_killed_in_a_write_is_finished_by_the_next(
    spark, make_log, make_config, lake_root, tmp_path, monkeypatch
):
    """Killed when the commit is done: that is the latest moment at which the next write can be lost.

    The lakes of killed jobs are copies of one job's, each made when a commit is done.
    """
    faulty = [("", "i", "d", "1", f"{DAYS[0]} 11:00:00")]
    path = make_log([*rows(), *faulty])
    left = {}

    def copy_after(method):
        def write(lake, table, *arguments):
            method(lake, table, *arguments)
            name = table if isinstance(table, str) else table.name
            left[name] = shutil.copytree(lake_root, tmp_path / f"killed in {name}")

        return write

    with monkeypatch.context() as patched:
        for name in ("overwrite_where", "append"):
            patched.setattr(Lake, name, copy_after(getattr(Lake, name)))
        ingest_clicks(spark, make_config(path))
    assert list(left) == ["clicks_rejected", "clicks", "loads"]
    for root in map(str, left.values()):
        figures = ingest_clicks(spark, make_config(path, lake={"root": root}))
        assert (figures["rows_in"], figures["clicks"], figures["rejected"]) == (9, 8, 1)
        assert clicks_of(root) == {(user, 1, ts[:10]): 1 for user, _, _, _, ts in rows()}
        assert [row["rule"] for row in rows_of(root, "clicks_rejected")] == ["user_present"]


def test_loads_whose_files_were_joined_are_still_replaced_one_by_one(spark, make_log, make_config, lake_root):
    one, two = make_log(rows(8), "one"), make_log(rows(12)[8:], "two")
    for path in (one, two):
        ingest_clicks(spark, make_config(path))
    maintain_lake(spark, make_config())
    assert len(state_of(lake_root, "clicks").files) == 2
    ingest_clicks(spark, make_config(make_log(rows(8, label="0"), "one")))
    expected = {(user, 0, ts[:10]): 1 for user, _, _, _, ts in rows(8)}
    assert clicks_of(lake_root) == expected | {(user, 1, ts[:10]): 1 for user, _, _, _, ts in rows(12)[8:]}


def test_days_of_one_domain_and_without_valid_rows_are_filed(spark, make_log, make_config, lake_root):
    log = [*rows(3), ("", "i", "d", "1", "2026-01-05 10:00:00")]
    assert ingest_clicks(spark, make_config(make_log(log)))["days"] == 2
    rejected = rows_of(lake_root, "clicks_rejected")
    assert [(row["rule"], str(row["ds"])) for row in rejected] == [("user_present", "2026-01-05")]
