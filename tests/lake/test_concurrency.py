"""Concurrent jobs leave the tables as docs/concurrency.md describes."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import pytest

from mamdr_core.config.job_config import with_values
from mamdr_core.lake.examples import new_clicks as news_module
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest import job as ingest_module
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.maintenance.job import maintain_lake
from schemas import TABLES
from tests.lake.stored import commit, rows_of

pytestmark = pytest.mark.slow
EVENT = ["user", "item", "domain", "event_time"]


def at_once(spark, job, *configs):
    """Run a job once for each configuration, at the same time, each in a session of its own; returns their figures."""
    with ThreadPoolExecutor(len(configs)) as pool:
        running = [pool.submit(job, spark.newSession(), config) for config in configs]
        return [each.result(300) for each in running]


def meeting(monkeypatch, owner, name):
    """Have the first two calls of a function wait for each other, so that neither job has seen what the other does."""
    barrier, real, met = threading.Barrier(2), getattr(owner, name), set()

    def wait_and_call(*arguments, **named):
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            barrier.wait(120)
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, wait_and_call)


def log_of(day, *users):
    return [(user, f"i{number % 3}", "d", str(number % 2), f"{day} 10:00:00") for number, user in enumerate(users)]


def users_in(root):
    return sorted(row["user"] for row in rows_of(root, "clicks"))


def test_two_ingests_of_different_days_do_not_conflict(spark, make_log, make_config, lake_root, monkeypatch):
    configs = [make_config(make_log(log_of(f"2026-01-0{n}", f"a{n}", f"b{n}"), f"raw{n}")) for n in (1, 2)]
    meeting(monkeypatch, ingest_module, "publish")
    figures = at_once(spark, ingest_clicks, *configs)
    assert [each["clicks"] for each in figures] == [2, 2]
    assert users_in(lake_root) == ["a1", "a2", "b1", "b2"]
    assert sorted(row["status"] for row in rows_of(lake_root, "loads")) == ["published"] * 2


def test_two_ingests_of_the_same_day_keep_both_and_an_event_of_both_once(
    spark, make_log, make_config, lake_root, monkeypatch
):
    """Half of the later one's events turn out to be the other's: checks that passed before do not stop it then."""
    ingest_clicks(spark, make_config(make_log(log_of("2026-01-01", "before"), "raw0")))
    strict = {"quality": {"max_rejected": 0.1}}
    configs = [make_config(make_log(log_of("2026-01-01", "both", own), own), **strict) for own in ("first", "second")]
    meeting(monkeypatch, ingest_module, "publish")
    figures = at_once(spark, ingest_clicks, *configs)
    assert users_in(lake_root) == ["before", "both", "first", "second"]
    assert sorted(each["clicks"] for each in figures) == [1, 2]
    assert [row["rule"] for row in rows_of(lake_root, "clicks_rejected")] == ["new_event"]
    assert max(Counter(tuple(row[name] for name in EVENT) for row in rows_of(lake_root, "clicks")).values()) == 1


def test_the_same_load_twice_at_once_is_there_once(spark, make_log, make_config, lake_root, monkeypatch):
    config = make_config(make_log([*log_of("2026-01-01", "a", "b"), (None, "i", "d", "1", "2026-01-01 11:00:00")]))
    meeting(monkeypatch, ingest_module, "publish")
    figures = at_once(spark, ingest_clicks, config, config)
    assert [(each["clicks"], each["rejected"]) for each in figures] == [(2, 1), (2, 1)]
    assert users_in(lake_root) == ["a", "b"]
    assert len(rows_of(lake_root, "clicks_rejected")) == 1


def test_of_two_ingests_that_replace_the_day_the_later_one_stays_whole(
    spark, make_log, make_config, lake_root, monkeypatch
):
    logs = {name: make_log(log_of("2026-01-01", f"{name}1", f"{name}2"), name) for name in ("x", "y")}
    configs = [make_config(path, input={"replace": "days"}) for path in logs.values()]
    meeting(monkeypatch, ingest_module, "publish")
    at_once(spark, ingest_clicks, *configs)
    assert users_in(lake_root) in (["x1", "x2"], ["y1", "y2"])


def test_two_builds_share_vocabularies_and_each_finds_its_own_examples(
    spark, make_log, make_config, lake_root, monkeypatch
):
    rows = [(f"u{n}", f"i{n}", f"d{n % 2}", str(n % 2), f"2026-01-0{1 + n % 2} 10:{n:02d}:00") for n in range(40)]
    config = make_config(make_log(rows))
    ingest_clicks(spark, config)
    configs = [
        with_values(config, {"examples.since": day, "examples.until": day}) for day in ("2026-01-01", "2026-01-02")
    ]
    meeting(monkeypatch, news_module, "add_new_ids")
    figures = at_once(spark, build_examples, *configs)
    indices = {row["id"]: row["index"] for row in rows_of(lake_root, "users")}
    assert sorted(indices.values()) == list(range(40))
    names = {index: name for name, index in indices.items()}
    assert figures[0]["examples_version"] != figures[1]["examples_version"]
    for day, each in enumerate(figures):
        built = rows_of(lake_root, "examples", each["examples_version"])
        assert sorted(names[row["user"]] for row in built) == sorted(f"u{n}" for n in range(40) if n % 2 == day)


def test_ingest_and_maintenance_at_once_lose_nothing(spark, make_log, make_config, lake_root):
    for number in range(3):  # small files to join, of the same time as the load
        row = {"user": f"u{number}", "item": "i0", "domain": "d", "label": 0, "load": number, "ds": date(2026, 1, 1)}
        commit(lake_root, TABLES["clicks"], [row | {"event_time": datetime(2026, 1, 1, 10, tzinfo=UTC)}])
    config = make_config(make_log(log_of("2026-01-01", "late"), "late"))
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(job, spark.newSession(), config) for job in (maintain_lake, ingest_clicks)]
        for each in running:
            each.result(300)
    assert users_in(lake_root) == ["late", "u0", "u1", "u2"]
