"""The report job on a lake: what it reads, where it writes, what it does where tables or runs are missing."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from mamdr_core.config.job_config import Config, with_values
from mamdr_core.config.reports import ReportSettings
from mamdr_core.lake.core.tables import Lake
from mamdr_core.reports.facts import read_facts
from mamdr_core.reports.lake_facts import read_lake_facts
from mamdr_core.reports.report import write_report
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.records import record_run
from tests.reports.example_facts import make_facts, row_of, run_row
from tests.reports.lake import append, write_facts

pytestmark = pytest.mark.slow
RUN, JOINT, CHAMPION = "20260107T031500-mamdr-1f0c2a", "20260107T050000-joint-aaaaaa", "20260106T031500-mamdr-bbbbbb"


@pytest.fixture(scope="module")
def facts():
    return make_facts(60)


@pytest.fixture(scope="module")
def lake(spark, tmp_path_factory, facts):
    lake = Lake(spark, str(tmp_path_factory.mktemp("report") / "lake"))
    write_facts(lake, facts)
    return lake


def config_of(lake, run_id):
    return with_values(Config(), {"lake.root": lake.root, "report.run_id": run_id})


def same(found, expected):
    """Whether a row holds what was written, but for columns that were null where they must not be."""
    return all(found[name] == value for name, value in expected.items() if value is not None and name != "started_at")


def test_the_facts_of_a_run_are_found(lake, facts):
    found = read_facts(lake, ReportSettings(run_id=RUN))
    assert found.ids == facts.ids
    for name, values in facts.figures.items():
        assert np.array_equal(found.figures[name], values, equal_nan=True), name
    for theirs, ours in ((found.joint, facts.joint), (found.before, facts.before)):
        assert theirs.run["run_id"] == ours.run["run_id"]
        assert theirs.same_rows == ours.same_rows
        assert np.array_equal(theirs.auc, ours.auc, equal_nan=True)
        assert np.array_equal(theirs.own, ours.own, equal_nan=True)
    assert [row["rows"] for row in found.days] == [row["rows"] for row in facts.days]
    assert [row["domains"] for row in found.days] == [56] * 6 + [60]
    assert [row["new_domains"] for row in found.days] == [56, 0, 0, 0, 0, 0, 4]
    assert {row["domain"] for row in found.drift} == {"theme-0", "theme-1", "theme-2"}
    assert [row["round"] for row in found.curve] == [row["round"] for row in facts.curve]
    assert same(found.decision, facts.decision)
    assert [row["difference"] for row in found.judged] == [row["difference"] for row in facts.judged]
    assert same(found.conflicts["after"], facts.conflicts["after"])
    cosines = {(row["domain"], row["other"]): row["cosine"] for row in found.pairs["before"]}
    assert cosines == {(row["domain"], row["other"]): row["cosine"] for row in facts.pairs["before"]}


def test_days_after_the_run_or_long_before_it_are_left_out(lake, facts):
    found = read_facts(lake, ReportSettings(run_id=CHAMPION, days=3))
    assert [row["ds"] for row in found.days] == [row["ds"] for row in facts.days[3:6]]
    assert [row["new_domains"] for row in found.days] == [0, 0, 0]
    assert found.decision is None


def test_without_the_gate_a_run_is_compared_with_an_earlier_champion(lake):
    found = read_facts(lake, ReportSettings(run_id=JOINT))
    assert (found.before.run["run_id"], found.before.same_rows) == (CHAMPION, False)
    assert found.joint is None


def test_the_pairs_of_few_domains_make_the_heat_map(lake):
    found = read_facts(lake, ReportSettings(run_id=RUN, heat=5))
    assert len(found.pairs["before"]) == 5 * 4 / 2


def test_the_job_writes_one_file_and_returns_its_path(spark, lake):
    result = write_report(spark, config_of(lake, RUN))
    page = Path(result["report"])
    assert page == Path(lake.root) / "reports" / f"{RUN}.html"
    assert result["bytes"] == page.stat().st_size
    assert (result["run_id"], result["domains"]) == (RUN, 60)
    assert "✗ Stopped by the gate" in page.read_text(encoding="utf-8")
    index = Path(result["index"])
    assert index == page.with_name("index.html")
    assert f'href="{RUN}.html"' in index.read_text(encoding="utf-8")
    assert write_report(spark, config_of(lake, "champion"))["run_id"] == CHAMPION
    newest = write_report(spark, config_of(lake, ""))
    assert newest["run_id"] in (RUN, JOINT)  # begun at the same time


def test_the_facts_of_a_lake_are_those_of_its_newest_days(spark, lake, facts, tmp_path):
    first, second, last = (row["ds"] for row in facts.days[-3:])
    copy = Lake(spark, str(shutil.copytree(lake.root, tmp_path / "lake")))
    alone = {"rows": 10, "clicks": 1, "ctr": 0.1, "ctr_low": 0.1, "ctr_high": 0.1, "users": 10, "new_users": 2}
    moved = [("gone", first, 5.0, None), ("wave", first, -4.5, 3.0), ("wave", second, None, -6.0)]
    rows = [row_of("domain_stats", domain=name, ds=ds, ctr_z=z, week_ctr_z=w, **alone) for name, ds, z, w in moved]
    append(copy, "domain_stats", rows)
    found = read_lake_facts(copy, ReportSettings(days=3, listed=2), [f"{RUN}.html", "index.html"])
    assert [row["ds"] for row in found.days] == [first, second, last]
    before = [row["rows"] for row in facts.days[-3:]]
    assert [row["rows"] for row in found.days] == [before[0] + 20, before[1] + 10, before[2]]
    assert [row["domains"] for row in found.days] == [58, 57, 60]
    assert [row["new_domains"] for row in found.days] == [0, 0, 4]
    assert [row["left_domains"] for row in found.days] == [1, 1, None]
    drifting = [(row["domain"], row["days"], row["z"], row["ds"]) for row in found.drifting]
    assert drifting == [("wave", 2, 6.0, second), ("gone", 1, 5.0, first)]

    assert found.champion["run_id"] == CHAMPION
    runs = {row["run_id"]: row for row in found.runs}
    assert set(runs) == {RUN, JOINT, CHAMPION}
    assert {run_id for run_id, row in runs.items() if row["promoted"]} == {CHAMPION}
    assert {run_id for run_id, row in runs.items() if row["page"]} == {RUN}
    assert [runs[run_id]["passed"] for run_id in (RUN, JOINT)] == [False, None]
    assert runs[RUN]["started_at"] == facts.run["started_at"]  # in UTC, wherever the driver is


def test_new_domains_are_unknown_before_a_build_has_numbered_domains(spark, lake, tmp_path):
    copy = Lake(spark, str(shutil.copytree(lake.root, tmp_path / "lake", ignore=shutil.ignore_patterns("domains"))))
    assert {row["new_domains"] for row in read_lake_facts(copy, ReportSettings(days=3), []).days} == {None}


def test_an_unknown_run_is_a_one_line_error(spark, lake):
    with pytest.raises(MamdrError, match=r"report\.run_id: training_runs of .* has no run x' OR 'a' = 'a"):
        write_report(spark, config_of(lake, "x' OR 'a' = 'a"))


def test_a_lake_without_runs_is_a_one_line_error(spark, tmp_path):
    for run_id in ("", "r"):
        with pytest.raises(MamdrError, match=r"has no table training_runs yet: run jobs/train_mamdr\.py first"):
            write_report(spark, config_of(Lake(spark, str(tmp_path / "lake")), run_id))


def test_a_failed_run_in_an_empty_lake_has_a_report(spark, tmp_path):
    lake = Lake(spark, str(tmp_path / "lake"))
    failed = {"status": "failed", "error": "rank 1: out of memory", "seconds": None, "test_auc": None}
    record_run(lake, run_row(**failed, finished_at=datetime(2026, 1, 7, 4, tzinfo=UTC)))
    result = write_report(spark, config_of(lake, RUN))
    assert result["domains"] == 0
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert "Run failed" in page
    assert "rank 1: out of memory" in page
    with pytest.raises(MamdrError, match="has no successful run"):
        write_report(spark, config_of(lake, ""))


def test_a_deleted_champion_is_reported(spark, lake, facts, tmp_path):
    other = Lake(spark, str(tmp_path / "lake"))
    record_run(other, run_row(parent_run_id=CHAMPION))
    found = read_facts(other, ReportSettings(run_id=RUN))
    assert found.before.run["run_id"] == CHAMPION
    result = write_report(spark, config_of(other, RUN))
    assert f"Run {CHAMPION} no longer has figures by domain" in Path(result["report"]).read_text(encoding="utf-8")


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"report\.days must be >= 1, got 0"):
        replace(ReportSettings(), days=0)
