"""Promotion after a passing decision, rollbacks, and concurrent promotions."""

import threading
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from mamdr_core.config.job_config import parse_config
from mamdr_core.lake.champion import find_champion
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.tables import Lake
from mamdr_core.promotion import promote as promoting
from mamdr_core.promotion.decisions import Decision, record_decision
from mamdr_core.promotion.promote import promote
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES
from schemas.spark import spark_schema

pytestmark = pytest.mark.slow


class Shop:
    """A lake with runs of some days, each with a folder for a package, and promotions in order."""

    def __init__(self, spark, root):
        self.spark, self.lake = spark, Lake(spark, root)
        self.config = {"lake": {"root": root}}
        table, rows = TABLES["training_runs"], []
        for day, run_id in enumerate("abcdx", 1):
            Path(self.lake.path_of("packages", run_id)).mkdir(parents=True)
            row = {"run_id": run_id, "status": "ok", "method": "mamdr", "model": "mlp", "config": "", "ds": day_of(day)}
            row |= {"package": self.lake.path_of("packages", run_id), "input_versions": {}}
            row |= {"started_at": datetime(2026, 1, day, tzinfo=UTC)}
            rows.append(tuple(row.get(name) for name in table.column_names))
        self.lake.append(table, local_frame(spark, rows, spark_schema(table)).coalesce(1))

    def decide(self, run_id, champion, passed=True):
        day = day_of("abcdx".index(run_id) + 1)
        record_decision(self.lake, Decision(run_id, champion, day, passed, ["its reason"], {}))

    def promote(self, run_id="", **settings):
        return promote(self.spark, parse_config(self.config | {"promote": {"run_id": run_id, **settings}}))

    def serve(self, *run_ids):
        """Promote runs one after another."""
        for run_id in run_ids:
            champion = find_champion(self.lake)
            self.decide(run_id, champion and champion["run_id"])
            assert self.promote(run_id)["promoted"]

    def history(self):
        rows = self.lake.read("promotions").orderBy("number").collect()
        assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
        return [(row["replaced_run_id"], row["run_id"]) for row in rows]


def day_of(number):
    return date(2026, 1, number)


@pytest.fixture
def shop(spark, tmp_path, monkeypatch):
    """Packages are whole if their folder is there; loading them is tested with the gate."""

    def load(folder):
        if not Path(folder).is_dir():
            raise MamdrError(f"{folder} is not a model package")

    monkeypatch.setattr(promoting, "read_metadata", load)
    return Shop(spark, str(tmp_path / "lake"))


def test_a_run_that_passed_serves_and_promoting_it_again_changes_nothing(shop):
    shop.decide("a", None)
    result = shop.promote("a")
    assert result == {
        "run_id": "a", "promoted": True, "champion": "a", "replaced": None, "kind": "promote", "reason": None
    }  # fmt: skip
    again = shop.promote("a")
    assert (again["promoted"], again["champion"], again["replaced"]) == (False, "a", None)
    assert again["reason"] == "run a already serves"
    shop.decide("b", "a")
    assert shop.promote("b")["replaced"] == "a"
    assert shop.history() == [(None, "a"), ("a", "b")]


def test_only_a_run_that_passed_against_the_current_champion_is_promoted(shop):
    with pytest.raises(MamdrError, match=r"has not evaluated run a: first run spark-submit jobs/gate\.py"):
        shop.promote("a")
    shop.decide("a", None, passed=False)
    with pytest.raises(MamdrError, match=r"the gate stopped run a: its reason; promote\.force promotes it anyway"):
        shop.promote("a")
    assert shop.promote("a", force=True)["promoted"]
    shop.decide("c", "b")
    with pytest.raises(MamdrError, match="run c was compared with b, and a serves now: run"):
        shop.promote("c")
    assert [row["forced"] for row in shop.lake.read("promotions").collect()] == [True]
    with pytest.raises(MamdrError, match="has no run nowhere"):
        shop.promote("nowhere")


def test_repeated_days_neither_replace_newer_days_nor_undo_rollbacks(shop):
    shop.serve("b", "c")
    shop.decide("a", None)
    assert shop.promote("a")["reason"] == "a newer day serves: the champion c is of 2026-01-03, run a of 2026-01-01"
    assert shop.promote("b")["promoted"] is False
    assert shop.promote(rollback="previous")["champion"] == "b"
    again = shop.promote("c")  # the task of day 3 runs again after a person went back to day 2
    assert (again["promoted"], again["champion"]) == (False, "b")
    assert again["reason"] == "run c has served before; to roll back to it, use --rollback c"
    shop.serve("d")
    assert shop.history()[2:] == [("c", "b"), ("b", "d")]


def test_rollbacks_reach_earlier_champions_one_by_one_or_by_id(shop):
    shop.serve("a", "b", "c")
    assert shop.promote(rollback="previous") == {
        "run_id": "b", "promoted": True, "champion": "b", "replaced": "c", "kind": "rollback", "reason": None
    }  # fmt: skip
    assert shop.promote(rollback="previous")["champion"] == "a"
    with pytest.raises(MamdrError, match="a is the first run that was promoted"):
        shop.promote(rollback="previous")
    assert shop.promote(rollback="c")["champion"] == "c"
    assert shop.promote(rollback="c")["promoted"] is False
    with pytest.raises(MamdrError, match="run d has never served; these have: c, a, b"):
        shop.promote(rollback="d")
    Path(shop.lake.path_of("packages", "b")).rmdir()
    with pytest.raises(
        MamdrError, match=r"run b cannot serve: .*packages/b is not a model package; other runs .*: c, a"
    ):
        shop.promote(rollback="b")
    assert shop.history()[3:] == [("c", "b"), ("b", "a"), ("a", "c")]
    assert [row["kind"] for row in shop.lake.read("promotions").orderBy("number").collect()[2:4]] == [
        "promote",
        "rollback",
    ]


def test_rollback_without_a_promotion_is_an_error(shop):
    with pytest.raises(MamdrError, match=r"promote\.rollback: no run of .* has been promoted"):
        shop.promote(rollback="previous")


def test_concurrent_promotions_are_serialised(shop, monkeypatch):
    """Two read the same history; one adds its row, the other must read again, and finds its decision out of date."""
    shop.serve("a")
    for run_id in "bc":
        shop.decide(run_id, "a")
    both_read, check = threading.Barrier(2, timeout=120), promoting.check_promotion
    waited = threading.local()

    def check_together(*arguments):
        check(*arguments)
        if not getattr(waited, "done", False):
            waited.done = True
            both_read.wait()

    monkeypatch.setattr(promoting, "check_promotion", check_together)
    results = {}

    def run(run_id):
        try:
            results[run_id] = shop.promote(run_id)
        except MamdrError as error:
            results[run_id] = str(error)

    threads = [threading.Thread(target=run, args=(run_id,)) for run_id in "bc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = shop.history()
    assert len(history) == 2
    winner = history[1][1]
    loser = "c" if winner == "b" else "b"
    assert results[winner] == {
        "run_id": winner, "promoted": True, "champion": winner, "replaced": "a", "kind": "promote", "reason": None
    }  # fmt: skip
    if winner == "b":  # c, of a newer day, was compared with a
        assert "run c was compared with a, and b serves now" in results["c"]
    else:
        assert results[loser]["reason"].startswith("a newer day serves")
