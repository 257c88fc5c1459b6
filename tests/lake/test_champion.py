"""The champion is the run of the last promotion, and goes by that name where a run is expected."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from mamdr_core.lake.champion import find_champion, find_run, resolve_run
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES
from schemas.spark import spark_schema

pytestmark = pytest.mark.slow

DAYS = [date(2026, 1, day) for day in range(5)[1:]]
NOW = datetime(2026, 1, 9, tzinfo=UTC)


@pytest.fixture
def lake(spark, lake_root):
    return Lake(spark, lake_root)


def promote(lake, *rows):
    """Rows of promotions from (number, run_id, ds)."""
    filled = [(number, run_id, None, "promote", ds, False, NOW) for number, run_id, ds in rows]
    lake.append("promotions", lake.spark.createDataFrame(filled, spark_schema(TABLES["promotions"])))


def test_the_champion_is_the_run_of_the_greatest_number_of_whatever_day(lake):
    promote(lake, (2, "second", DAYS[2]), (3, "third", DAYS[1]), (1, "first", DAYS[0]))
    assert find_champion(lake).run_id == "third"
    assert resolve_run(lake, "champion") == "third"
    assert resolve_run(lake, "first") == "first"


def test_before_a_day_the_champion_is_the_last_one_of_an_earlier_day(lake):
    promote(lake, (1, "a", DAYS[0]), (2, "b", DAYS[1]), (3, "c", DAYS[2]), (4, "no day", None))
    assert find_champion(lake, DAYS[2]).run_id == "b"
    assert find_champion(lake, DAYS[3]).run_id == "c"
    assert find_champion(lake, DAYS[0]) is None
    assert resolve_run(lake, f"champion@{DAYS[1]}") == "b"
    promote(lake, (5, "a", DAYS[0]))
    assert find_champion(lake, DAYS[3]).run_id == "a"


def test_the_champion_is_found_with_its_package_in_a_copied_lake(spark, lake):
    promote(lake, (1, "first", DAYS[0]))
    run = {
        "run_id": "first", "method": "joint", "model": "mlp", "config": "{}", "input_versions": {}, "status": "ok",
        "started_at": NOW, "package": "/the/lake/before/packages/first",
    }  # fmt: skip
    table = TABLES["training_runs"]
    filled = tuple(run.get(name) for name in table.column_names)
    lake.append("training_runs", spark.createDataFrame([filled], spark_schema(table)))
    for name in ("champion", "first", ""):
        found = find_run(lake, name)
        assert (found["run_id"], found["package"]) == ("first", run["package"]), name
    own = Path(lake.path_of("packages", "first"))
    own.mkdir(parents=True)
    assert find_run(lake, "champion")["package"] == str(own)


def test_without_a_promotion_there_is_no_champion(lake):
    assert find_champion(lake) is None
    with pytest.raises(MamdrError, match="has been promoted yet: run jobs/promote"):
        resolve_run(lake, "champion")
    with pytest.raises(MamdrError, match=r"no run of 2026-01-02 or before of .* has been promoted yet"):
        resolve_run(lake, "champion@2026-01-02")
    with pytest.raises(MamdrError, match="champion@tomorrow: not a date"):
        resolve_run(lake, "champion@tomorrow")


def test_an_empty_name_means_the_newest_run_that_ended_well(spark, lake):
    table = TABLES["training_runs"]
    rows = []
    for day, (run_id, status) in enumerate([("old", "ok"), ("new", "ok"), ("broken", "failed")], 1):
        row = {"run_id": run_id, "status": status, "method": "mamdr", "model": "mlp", "config": ""}
        row |= {"input_versions": {}, "started_at": datetime(2026, 1, day, tzinfo=UTC)}
        rows.append(tuple(row.get(name) for name in table.column_names))
    lake.append(table, spark.createDataFrame(rows[2:], spark_schema(table)))
    with pytest.raises(MamdrError, match="no successful run"):
        resolve_run(lake, "")
    lake.append(table, spark.createDataFrame(rows[:2], spark_schema(table)))
    assert resolve_run(lake, "") == "new"
