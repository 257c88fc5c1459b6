"""Training beside other jobs: maintenance takes no file that it reads; of two promotions one is first, one is last."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from mamdr_core.config.job_config import load_config, with_values
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.maintenance.job import maintain_lake
from mamdr_core.lake.maintenance.vacuum import CHECK
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.promotion import promote as promoting
from mamdr_core.training import driver as run_module
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.package import publish_package, save_rank
from mamdr_core.training.records import record_run
from mamdr_core.training.worker import train_rank
from tests.learning.test_structures import make_learner

pytestmark = pytest.mark.slow


def test_a_run_keeps_its_version_while_the_lake_is_rebuilt_and_vacuumed(
    spark, trained_config, make_task, tmp_path, monkeypatch
):
    """With no retention at all, which maintain_lake refuses while Delta's check is on."""
    root = tmp_path / "lake"
    others = shutil.ignore_patterns("training_runs", "packages", "clicks_rejected", "loads")
    shutil.copytree(trained_config.lake.root, root, ignore=others)
    config = with_values(trained_config, {"lake.root": str(root), "train.epochs": 1})
    undisturbed = make_task(1, epochs=1)
    expected, version = train_rank(undisturbed, SingleProcess()), undisturbed.pinned.versions["examples"]
    real, reported = run_module.train_rank, []

    def maintain_and_train(task, collective):
        session = spark.newSession()
        session.conf.set(CHECK, "false")
        build_examples(session, with_values(config, {"examples.seed": 5}))
        reported.append(
            maintain_lake(session, with_values(config, {"maintain.retention_days": 0, "maintain.keep_runs": 1}))
        )
        return real(task, collective)

    monkeypatch.setattr(run_module, "train_rank", maintain_and_train)
    found = train_mamdr(spark, config)
    assert found["test_auc"] == expected.metrics["test"].mean_auc()
    assert found["examples_version"] == version
    assert reported[0]["tables"]["examples"]["pinned_versions"] == [version]
    # The table itself has moved on.
    assert Lake(spark, config.lake.root).version("examples") > version


def test_two_promotions_at_once_follow_one_another(spark, tmp_path, monkeypatch):
    config = load_config(overrides=[f"lake.root={tmp_path / 'lake'}", "promote.force=true"])
    lake = Lake(spark, config.lake.root)
    learner = make_learner("mlp", 1)
    for run_id in ("one", "two"):
        part, package = tmp_path / f"{run_id}.part", str(tmp_path / run_id)
        texts = {"config.yaml": "", "pinned.json": "{}", "metrics.json": json.dumps({"run_id": run_id})}
        publish_package(str(part), package, save_rank(str(part), 0, learner.shared, learner.specific), texts)
        run = {"run_id": run_id, "status": "ok", "method": "dn", "model": "mlp", "config": "", "input_versions": {}}
        record_run(lake, {**run, "package": package, "started_at": datetime(2026, 1, 1, tzinfo=UTC)})
    barrier, real, met = threading.Barrier(2), promoting._add, set()

    def meet_and_add(*arguments):
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            barrier.wait(120)
        return real(*arguments)

    monkeypatch.setattr(promoting, "_add", meet_and_add)
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(promoting.promote, spark.newSession(), with_values(config, {"promote.run_id": run_id}))
            for run_id in ("one", "two")
        ]
        figures = [job.result(300) for job in jobs]
    history = lake.read("promotions").orderBy("number").collect()
    assert [row["number"] for row in history] == [1, 2]
    assert sorted(row["run_id"] for row in history) == ["one", "two"]
    assert [row["replaced_run_id"] for row in history] == [None, history[0]["run_id"]]
    assert sorted(str(each["replaced"]) for each in figures) == sorted(["None", history[0]["run_id"]])
