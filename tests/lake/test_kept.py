"""Which runs keep their inputs and what they wrote."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.maintenance.job import maintain_lake
from mamdr_core.lake.maintenance.kept import find_leftovers, kept_runs
from mamdr_core.runtime.run_ids import make_run_id
from schemas import TABLES
from tests.lake.runs_and_versions import files_of, record, write_versions
from tests.lake.stored import commit

pytestmark = pytest.mark.slow


def test_running_and_resumable_runs_keep_inputs_until_the_package_is_deleted(spark, lake_root, make_config, unchecked):
    """Checkpoints and parts of packages are kept for two weeks, as the inputs are."""
    lake = Lake(spark, lake_root)
    released, running, stopped, ended, newest = write_versions(lake, [1, 2, 3, 4, 5])
    record(
        lake,
        ("released", "ok", 3, {"examples": released}),
        ("failed", "failed", 2, {"examples": released}),
        ("killed", "running", 15, {"examples": released}),
        ("running", "running", 1, {"examples": running}),
        ("stopped", "stopped", 3, {"examples": stopped}),
        ("forgotten", "failed", 15, {"examples": ended}),
        ("ended", "ok", 15, {"examples": ended}),
    )
    for run_id in ("released", "ended"):
        shutil.rmtree(lake.path_of("packages", run_id))
    left = [Path(lake.path_of("checkpoints", name, "1")) for name in ("stopped", "forgotten", "ended")]
    left += [Path(lake.path_of("packages", f".{name}.part")) for name in ("stopped", "forgotten")]
    for folder in left:
        folder.mkdir(parents=True)
    versions = (released, running, stopped, ended, newest)
    files = {version: files_of(lake, "examples", version) for version in versions}
    figures = maintain_lake(spark, make_config(maintain={"retention_days": 0}))
    assert (figures["kept_runs"], figures["leftovers_removed"]) == (2, 3)
    assert [folder.exists() for folder in left] == [True, False, False, True, False]
    for version in versions:
        there = version not in (released, ended)
        assert [path.exists() for path in files[version]] == [there] * len(files[version]), version


def test_keep_runs_keeps_the_newest_and_removes_the_packages_of_old_ones(spark, lake_root, make_config, unchecked):
    lake = Lake(spark, lake_root)
    versions = write_versions(lake, [1, 2, 3, 4])
    ages = (40, 10, 9, 8)
    record(lake, *((f"run{n}", "ok", ages[n], {"examples": versions[n]}) for n in range(4)))
    files = [files_of(lake, "examples", version) for version in versions]
    settings = {"retention_days": 0, "keep_runs": 2}
    planned = maintain_lake(spark, make_config(maintain={**settings, "dry_run": True}))
    assert Path(lake.path_of("packages", "run0")).exists()
    figures = maintain_lake(spark, make_config(maintain=settings))
    assert figures["tables"]["examples"]["pinned_versions"] == versions[2:]
    assert [all(path.exists() for path in paths) for paths in files] == [False, False, True, True]
    assert figures["packages_removed"] == planned["packages_removed"] == 1
    kept = [Path(lake.path_of("packages", f"run{n}")).exists() for n in range(4)]
    assert kept == [False, True, True, True]  # run1 began less than two weeks ago


def test_runs_that_have_served_keep_their_inputs_as_do_the_newest(spark, lake_root, make_config):
    lake = Lake(spark, lake_root)
    record(lake, *((f"run{n}", "ok", 9 - n, {"examples": n}) for n in range(6)))
    table, now = TABLES["promotions"], datetime.now(UTC)
    served = [(n, run_id, None, "promote", None, False, now) for n, run_id in enumerate(("run0", "run2", "run1"), 1)]
    commit(lake_root, table, [dict(zip(table.column_names, row, strict=True)) for row in served])

    def kept(*counts):
        return [run["run_id"] for run in kept_runs(lake, *counts)]

    assert kept(1, 2) == ["run5", "run2", "run1"]
    assert kept(2, 0) == ["run5", "run4", "run2", "run1", "run0"]
    assert kept(5, 1) == ["run5", "run4", "run3", "run2", "run1"]
    assert kept(0, 1) == ["run5", "run4", "run3", "run2", "run1", "run0"]


def test_a_comparison_that_was_killed_leaves_what_is_removed_after_two_weeks(spark, lake_root):
    """It has recorded nothing; what else lies there is not ours."""
    old, young = (make_run_id(datetime.now(UTC) - timedelta(days=days), "dn") for days in (15, 13))
    lake, folders = Lake(spark, lake_root), ("checkpoints", "packages")
    for name in (old, young, "20200101T000000-by-hand"):
        Path(lake.path_of("checkpoints", name, "1")).mkdir(parents=True)
        Path(lake.path_of("packages", f".{name}.part")).mkdir(parents=True)
    expected = [("checkpoints", old), ("packages", f".{old}.part")]
    assert find_leftovers(lake) == expected
    Path(lake.path_of("packages", old)).mkdir()
    record(lake, (young, "running", 0, {}))
    assert find_leftovers(lake) == [*expected, ("packages", old)]
    Path(lake.path_of("packages", old, "manifest.json")).touch()
    assert find_leftovers(lake) == expected
    assert [len(list(Path(lake_root, folder).iterdir())) for folder in folders] == [3, 4]
