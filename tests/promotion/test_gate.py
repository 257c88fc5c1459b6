"""The gate on a lake: a first day, a champion with unknown ids, an older day, a missing package."""

import re
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from delta.tables import DeltaTable
from pyspark.sql import functions as F

from mamdr_core.config.engine import MetricsSettings
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.views import create_views
from mamdr_core.promotion import opening
from mamdr_core.promotion.decisions import find_decision
from mamdr_core.promotion.gate import decide
from mamdr_core.promotion.measuring import measure
from mamdr_core.promotion.opening import days_of_rows, open_challenger, open_champion
from mamdr_core.training.trained_run import open_trained
from schemas import TABLES
from schemas.spark import spark_schema

pytestmark = pytest.mark.slow

GUIDE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)


def promote(lake, number, run_id, day):
    """Promote a run without the gate."""
    row = (number, run_id, None, "promote", day, True, datetime.now(UTC))
    lake.append("promotions", local_frame(lake.spark, [row], spark_schema(TABLES["promotions"])))


@pytest.fixture(scope="module")
def decided(spark, two_days):
    """Decisions about the run of the first day, and about that of the second day with the first as champion."""
    first = decide(spark, two_days.gate(0))
    promote(two_days.lake, 1, two_days.ids[0], date(2026, 1, 1))
    return first, decide(spark, two_days.gate(1))


def test_the_first_run_is_checked_against_absolute_limits(two_days, decided):
    first, run = decided[0], two_days.runs[0]
    assert (first["run_id"], first["champion"], first["passed"]) == (run["run_id"], None, True)
    assert first["serves"] is None
    assert first["auc"] == pytest.approx(run["test_auc"], abs=1e-9)
    assert first["weighted_auc"] == pytest.approx(run["weighted_test_auc"], abs=1e-9)
    assert first["gauc"] == pytest.approx(run["test_gauc"], abs=1e-9)
    assert first["calibration_error"] == pytest.approx(run["test_calibration_error"], abs=1e-6)
    assert (first["domains"], first["champion_auc"], first["day_auc"]) == (3, None, None)
    assert first["reasons"] == [
        f"it is within the absolute limits: mean AUC {first['auc']:.4f}; there is no champion to compare with"
    ]


def test_a_champion_with_unknown_ids_is_compared_on_the_same_rows(two_days, decided):
    second, lake = decided[1], two_days.lake
    assert (second["champion"], second["passed"], second["serves"]) == (two_days.ids[0], True, two_days.ids[0])
    assert second["auc"] == pytest.approx(two_days.runs[1]["test_auc"], abs=1e-9)
    assert second["auc_difference"] == pytest.approx(second["auc"] - second["champion_auc"], abs=1e-9)
    assert second["auc_low"] < second["auc_difference"] < second["auc_high"]
    assert second["day"] == date(2026, 1, 2)
    known = lake.read("users").where("first_seen <= '2026-01-01'").count()
    rows = lake.read("examples", second["examples_version"]).where("split = 'test'")
    newest = rows.where("ds = '2026-01-02'")
    assert second["rows"] == rows.count()
    assert second["unseen_users"] == pytest.approx(newest.where(F.col("user") >= known).count() / newest.count())
    assert 0 < second["unseen_items"] < second["unseen_users"] < 0.5
    by_domain = {
        row["domain_id"]: row for row in lake.read("gate_domains").where(f"run_id = '{two_days.ids[1]}'").collect()
    }
    assert by_domain.keys() == {"d0", "d1", "d2", "d3"}
    assert by_domain["d3"]["champion_auc"] > 0.6  # by theta_S: the champion knows no such domain
    for row in by_domain.values():
        assert row["difference"] == pytest.approx(row["auc"] - row["champion_auc"], abs=1e-12)
        assert row["low"] <= row["difference"] <= row["high"]  # all the same where the two predict the same


def test_a_champion_on_its_own_rows_has_the_figures_of_its_training(spark, two_days):
    trained = open_trained(spark, two_days.configs[0], two_days.ids[0], ["test"])
    own, other = open_challenger(trained), open_champion(trained, two_days.configs[0], two_days.ids[0])
    measured = measure(own, other, np.arange(len(own.columns)) % 2 == 0, MetricsSettings())
    np.testing.assert_array_equal(measured.champion.auc, measured.challenger.auc)
    np.testing.assert_array_equal(measured.difference, np.zeros(3))


@pytest.mark.parametrize("at_once", [100, 1 << 24])
def test_days_match_the_rows_of_the_columns(spark, two_days, monkeypatch, at_once):
    monkeypatch.setattr(opening, "DAY_ROWS", at_once)
    trained = open_trained(spark, two_days.configs[1], two_days.ids[1], ["test"])
    own = open_challenger(trained)
    days, place = days_of_rows(trained, own.columns.offsets.numpy())
    assert [str(np.datetime64(int(day), "D")) for day in days] == ["2026-01-01", "2026-01-02"]
    rows = trained.lake.read("examples", trained.pinned.versions["examples"]).where("split = 'test'")
    counted = rows.groupBy("domain", "ds", "user").count().collect()
    expected = {(row["domain"], row["ds"].day - 1, row["user"]): row["count"] for row in counted}
    found: dict[tuple[int, int, int], int] = {}
    ids = (own.columns.ids[name].numpy() - 1 for name in ("domain", "user"))
    for domain, user, day in zip(*ids, place, strict=True):
        found[domain, day, user] = found.get((domain, day, user), 0) + 1
    assert found == expected


def test_decisions_can_be_read_back_and_are_deterministic(spark, two_days, decided):
    assert find_decision(two_days.lake, two_days.ids[1]).summary() | {"serves": two_days.ids[0]} == decided[1]
    assert decide(spark, two_days.gate(1)) == decided[1]
    assert two_days.lake.read("gate_decisions").count() == 2


def test_a_violated_limit_stops_a_run_and_the_champion_keeps_its_decision(spark, two_days, decided):
    stopped = decide(spark, two_days.gate(1, least_auc=0.99))
    assert (stopped["passed"], stopped["auc"]) == (False, decided[1]["auc"])
    assert stopped["reasons"] == [f"its mean AUC is {stopped['auc']:.4f}, below gate.least_auc 0.99"]
    again = decide(spark, two_days.gate(0, least_auc=0.99))
    assert again == decided[0] | {"serves": two_days.ids[0]}  # it already serves


def test_without_the_package_of_the_champion_only_absolute_limits_apply(spark, two_days, decided):
    package = Path(two_days.runs[0]["package"])
    shutil.move(package, package.with_name("aside"))
    try:
        alone = decide(spark, two_days.gate(1))
    finally:
        shutil.move(package.with_name("aside"), package)
    assert (alone["champion"], alone["passed"], alone["champion_auc"]) == (two_days.ids[0], True, None)
    assert "the champion cannot be measured" in alone["reasons"][1]
    assert str(package) in alone["reasons"][1]


def test_the_queries_of_the_operating_guide_work(spark, two_days, decided):
    create_views(two_days.lake)
    decide(spark, two_days.gate(1, least_auc=0.99))
    served, stopped = (spark.sql(query).collect() for query in QUERIES)
    assert [(row["run_id"], row["until"]) for row in served] == [(two_days.ids[0], None)]
    assert [(row["run_id"], row["reason"].endswith("gate.least_auc 0.99")) for row in stopped] == [
        (two_days.ids[1], True)
    ]


def test_a_bad_day_can_be_deleted_as_the_operating_guide_describes(spark, two_days):
    statement = re.search(r'-e "(DELETE FROM .*)"', GUIDE)[1].replace("\\`", "`")
    before, version = two_days.lake.read("clicks").count(), two_days.lake.version("clicks")
    spark.sql(statement.replace("/data/lake", two_days.lake.root))
    assert two_days.lake.read("clicks").groupBy("ds").count().collect() == [(date(2026, 1, 1), before // 2)]
    DeltaTable.forPath(spark, two_days.lake.path("clicks")).restoreToVersion(version)


def test_a_run_of_an_earlier_day_is_stopped_and_earlier_decisions_are_kept(spark, two_days, decided):
    promote(two_days.lake, 2, two_days.ids[1], date(2026, 1, 2))
    assert decide(spark, two_days.gate(0)) == decided[0] | {"serves": two_days.ids[0]}
    table = TABLES["gate_decisions"]
    two_days.lake.overwrite_where(table, local_frame(spark, [], spark_schema(table)), f"run_id = '{two_days.ids[0]}'")
    stopped = decide(spark, two_days.gate(0))
    assert (stopped["passed"], stopped["champion"], stopped["serves"]) == (False, two_days.ids[1], two_days.ids[0])
    assert stopped["reasons"][0].startswith("a newer day serves: the champion ")
