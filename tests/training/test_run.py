"""train_mamdr and evaluate on the driver: figures, tables, package, and what bad input does."""

import gzip
import json
import os
import signal
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from pyspark.sql import functions as F

from mamdr_core.config.engine import MetricsSettings
from mamdr_core.config.job_config import with_values
from mamdr_core.engine.metrics import domain_metrics
from mamdr_core.experiments.measured import OVERALL
from mamdr_core.lake.core.tables import Lake
from mamdr_core.parallel.launch import RankError
from mamdr_core.runtime.errors import MamdrError, StoppedError
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.evaluate import evaluate_package
from mamdr_core.training.package import load_package
from mamdr_core.training.records import record_metrics, record_run
from schemas import TABLES

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def figures(spark, trained_config):
    """The figures of a profiled run of MAMDR on one rank."""
    return train_mamdr(spark, with_values(trained_config, {"train.profile": True}))


def test_the_run_reports_what_outside_scripts_rely_on(figures):
    names = "run_id method model ranks device epochs rounds domains train_rows val_auc test_auc weighted_test_auc"
    assert set(names.split()) | {"samples_per_second", "seconds", "examples_version", "package"} <= set(figures)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["domains"] == figures["domains_measured"] == 5
    assert figures["engine"] == "eager"  # so few rows do not repay compiling
    assert figures["skipped_steps"] == 0
    assert figures["specific_bytes"] > figures["specific_row_bytes"] > 0


def test_the_run_is_recorded_with_its_inputs(spark, trained_config, figures):
    lake = Lake(spark, trained_config.lake.root)
    row = lake.read("training_runs").where(F.col("run_id") == figures["run_id"]).first()
    assert row["status"] == "ok"
    assert row["input_versions"]["examples"] == figures["examples_version"] == lake.version("examples")
    assert row["test_auc"] == figures["test_auc"]
    assert (row["engine"], row["precision"]) == ("eager", "fp32")
    assert row["specific_bytes"] == figures["specific_bytes"]
    assert "embedding_dim: 4" in row["config"]
    metrics = lake.read("domain_metrics").where((F.col("run_id") == figures["run_id"]) & (F.col("split") == "test"))
    assert metrics.count() == 5
    assert metrics.agg(F.mean("auc")).first()[0] == pytest.approx(figures["test_auc"], abs=1e-12)
    assert {name: row[name] for name in OVERALL} == {name: figures[name] for name in OVERALL}
    assert set(row["test_ndcg"]) == set(row["test_hit_rate"]) == {"5", "10"}
    gauc = metrics.agg(F.sum(F.col("gauc") * F.col("gauc_rows")) / F.sum("gauc_rows")).first()[0]
    assert gauc == pytest.approx(figures["test_gauc"], abs=1e-12)
    ndcg = metrics.agg(F.sum(F.col("ndcg")["10"] * F.col("groups")) / F.sum("groups")).first()[0]
    assert ndcg == pytest.approx(figures["test_ndcg"]["10"], abs=1e-12)
    pcoc = metrics.agg(F.sum(F.col("mean_prediction") * F.col("rows")) / F.sum("clicks")).first()[0]
    assert pcoc == pytest.approx(figures["test_pcoc"], abs=1e-12)


def test_it_is_profiled_in_the_lake(trained_config, figures):
    trace, table = map(Path, figures["profile"])
    assert trace.parent == table.parent == Path(trained_config.lake.root, "reports", figures["run_id"])
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert {"inner", "validate", "aten::addmm"} <= {event["name"] for event in events if event.get("ph") == "X"}
    text = table.read_text()
    assert all(f"\n{phase} " in text for phase in figures["seconds"] if phase in ("inner", "read", "evaluate", "save"))
    assert "Stage shared" in text


def test_its_curve_is_recorded(spark, trained_config, figures):
    curve = Lake(spark, trained_config.lake.root).read("training_curves").where(F.col("run_id") == figures["run_id"])
    rows = curve.orderBy("rows").collect()
    assert [(row["phase"], row["epoch"], row["round"]) for row in rows] == [
        ("shared", 1, 2), ("shared", 1, 4), ("shared", 2, 6), ("shared", 2, 8),
    ]  # fmt: skip
    best = [row for row in rows if row["best"]][-1]
    assert (best["round"], best["val_auc"]) == (figures["best_round"], pytest.approx(figures["val_auc"], abs=1e-12))
    assert best["val_auc"] == max(row["val_auc"] for row in rows)
    assert rows[1]["rows"] >= figures["train_rows"]  # an epoch of DN, and what DR descends on besides


def test_evaluating_the_package_gives_trainings_figures(spark, trained_config, figures):
    lake = Lake(spark, trained_config.lake.root)
    chosen = (F.col("run_id") == figures["run_id"]) & (F.col("split") == "test")
    before = {row["domain"]: row for row in lake.read("domain_metrics").where(chosen).collect()}
    config = replace(trained_config, evaluate=replace(trained_config.evaluate, run_id=figures["run_id"]))
    measured = evaluate_package(spark, config)
    assert measured["auc"] == pytest.approx(figures["test_auc"], abs=1e-12)
    assert measured["weighted_auc"] == pytest.approx(figures["weighted_test_auc"], abs=1e-12)
    for name in OVERALL:
        assert measured[name.removeprefix("test_")] == figures[name]
    after = {row["domain"]: row for row in lake.read("domain_metrics").where(chosen).collect()}
    assert after == before


def test_a_package_of_sharded_tables_gives_trainings_figures(spark, trained_config):
    config = replace(trained_config, train=replace(trained_config.train, tables="sharded", epochs=1))
    figures = train_mamdr(spark, config)
    assert (Path(figures["package"]) / "shared-00000.safetensors").is_file()
    measured = evaluate_package(spark, replace(config, evaluate=replace(config.evaluate, run_id=figures["run_id"])))
    assert measured["auc"] == pytest.approx(figures["test_auc"], abs=1e-12)


def test_runs_are_recorded_in_a_table_from_before_a_column_was_declared(spark, tmp_path):
    lake, table = Lake(spark, str(tmp_path / "lake")), TABLES["training_runs"]
    new = ("engine", "precision", "skipped_steps", *OVERALL, "pcoc", "calibration_error", "gauc", "gauc_rows", "groups")
    new += ("ndcg", "hit_rate")
    for each in (table, TABLES["domain_metrics"]):
        lake.create(replace(each, columns=tuple(column for column in each.columns if column.name not in new)))
    run = {"run_id": "r", "status": "ok", "method": "dn", "model": "mlp", "config": "", "input_versions": {}}
    record_run(lake, {**run, "engine": "fast", "started_at": datetime(2026, 1, 1, tzinfo=UTC)})
    row = lake.read("training_runs").first()
    assert (row["run_id"], row["engine"], row["skipped_steps"]) == ("r", "fast", None)
    scores, users = torch.tensor([0.1, 0.3, 0.2, 0.4]), torch.tensor([1, 1, 2, 2])
    labels, offsets = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([0, 4])
    measured = domain_metrics(scores, labels, offsets, None, users, MetricsSettings(cutoffs=(1,)))
    record_metrics(lake, "r", ("d",), {"test": measured})
    row = lake.read("domain_metrics").first()
    assert (row["gauc"], row["gauc_rows"], row["groups"], row["ndcg"], row["hit_rate"]) == (
        0.5,
        4,
        2,
        {"1": 0.5},
        {"1": 0.5},
    )


def test_recording_a_run_rewrites_no_file_of_another_run(spark, tmp_path):
    lake = Lake(spark, str(tmp_path / "lake"))

    def record(run_id, status):
        run = {"run_id": run_id, "status": status, "method": "dn", "model": "mlp", "config": "", "input_versions": {}}
        record_run(lake, {**run, "started_at": datetime(2026, 1, 1, tzinfo=UTC)})
        return set(lake.read("training_runs").inputFiles())

    first, both, ended = record("20260101-a", "ok"), record("20260102-b", "running"), record("20260102-b", "ok")
    assert first < both
    assert first < ended != both
    assert lake.read("training_runs").select("run_id", "status").orderBy("run_id").collect() == [
        ("20260101-a", "ok"), ("20260102-b", "ok"),
    ]  # fmt: skip


def test_a_damaged_package_is_named(spark, trained_config, figures, tmp_path):
    import shutil

    copy = tmp_path / "package"
    shutil.copytree(figures["package"], copy)
    assert load_package(str(copy)).specific.keys() == set(range(5))
    damaged = copy / "shared.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    config = replace(trained_config, evaluate=replace(trained_config.evaluate, package=str(copy)))
    with pytest.raises(MamdrError, match=r"shared\.safetensors is damaged"):
        evaluate_package(spark, config)
    damaged.unlink()
    with pytest.raises(MamdrError, match=r"shared\.safetensors is missing"):
        load_package(str(copy))
    with pytest.raises(MamdrError, match="is not a model package"):
        load_package(str(tmp_path))


def test_a_failed_run_is_recorded_and_leaves_no_folder(spark, trained_config, monkeypatch):
    def fail(task, collective):
        Path(task.package).mkdir(parents=True)
        return 1 / 0

    monkeypatch.setattr("mamdr_core.training.driver.train_rank", fail)
    with pytest.raises(ZeroDivisionError):
        train_mamdr(spark, trained_config)
    lake = Lake(spark, trained_config.lake.root)
    newest = lake.read("training_runs").orderBy(F.desc("started_at")).first()
    assert (newest["status"], newest["error"]) == ("failed", "division by zero")
    assert not list((Path(trained_config.lake.root) / "packages").glob(f"*{newest['run_id']}*"))


def newest_run(spark, config):
    return Lake(spark, config.lake.root).read("training_runs").orderBy(F.desc("started_at")).first()


def test_what_ends_the_process_after_a_run_has_ended_well_does_not_undo_it(spark, trained_config, monkeypatch):
    """As Ctrl-C does while a tracker does not answer."""

    def track_run(ended):
        raise KeyboardInterrupt

    monkeypatch.setattr("mamdr_core.training.runs.track_run", track_run)
    with pytest.raises(KeyboardInterrupt):
        train_mamdr(spark, with_values(trained_config, {"train.epochs": 1}))
    row = newest_run(spark, trained_config)
    assert (row["status"], row["error"]) == ("ok", None)
    assert load_package(row["package"]).metrics["test_auc"] == row["test_auc"]


def test_a_run_whose_ranks_keep_dying_records_the_number_of_attempts(spark, trained_config, monkeypatch):
    def run_ranks(*arguments):
        raise RankError("rank 1 of 2 was lost")

    monkeypatch.setattr("mamdr_core.training.driver.run_ranks", run_ranks)
    with pytest.raises(RankError):
        train_mamdr(spark, with_values(trained_config, {"train.restarts": 1}))
    row = newest_run(spark, trained_config)
    assert (row["status"], row["attempts"], row["causes"]) == ("failed", 2, ["rank 1 of 2 was lost"] * 2)


def test_sigterm_is_remembered_where_a_rank_dies_of_it_first(spark, trained_config, monkeypatch):
    """As in a cluster that is shut down: no restart, however many are left."""

    def run_ranks(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        raise RankError("rank 1 of 2 was lost")

    monkeypatch.setattr("mamdr_core.training.driver.run_ranks", run_ranks)
    with pytest.raises(StoppedError, match=r"^stopped by SIGTERM while no rank was running$"):
        train_mamdr(spark, trained_config)
    row = newest_run(spark, trained_config)
    assert (row["status"], row["attempts"]) == ("stopped", 1)


def test_sigterm_ends_the_wait_for_a_restart(spark, trained_config, monkeypatch):
    calls = []

    def run_ranks(*arguments):
        calls.append(arguments)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        raise RankError("rank 1 of 2 was lost")

    monkeypatch.setattr("mamdr_core.training.driver.run_ranks", run_ranks)
    with pytest.raises(StoppedError, match="stopped by SIGTERM while no rank was running"):
        train_mamdr(spark, trained_config)
    assert len(calls) == 1
    row = newest_run(spark, trained_config)
    assert (row["status"], row["causes"]) == ("stopped", ["rank 1 of 2 was lost"])


def test_unknown_names_are_clear_errors_before_anything_is_read(spark, trained_config):
    config = replace(trained_config, train=replace(trained_config.train, method="mamdrr"))
    with pytest.raises(MamdrError, match="known: joint, alternate"):
        train_mamdr(spark, config)
    config = replace(trained_config, model=replace(trained_config.model, name="mpl"))
    with pytest.raises(MamdrError, match="known: adasparse"):
        train_mamdr(spark, config)


def test_a_run_that_is_not_there_is_a_clear_error(spark, trained_config, figures):
    config = replace(trained_config, evaluate=replace(trained_config.evaluate, run_id="x' OR 'a' = 'a"))
    with pytest.raises(MamdrError, match="has no run x' OR"):
        evaluate_package(spark, config)


def test_domains_of_one_row_or_one_class_are_trained_but_not_measured(spark, trained_config, tmp_path):
    rows = [(f"u{n % 40}", f"i{n % 13}", f"d{n % 2}", n % 3 == 0, n) for n in range(400)]
    rows += [("u1", "i1", "lonely", True, 1)] + [(f"u{n}", "i2", "loved", True, n) for n in range(40)]
    raw = str(tmp_path / "raw")
    frame = spark.createDataFrame(rows, "user string, item string, domain string, label boolean, t int")
    frame.coalesce(1).write.parquet(raw)
    columns = replace(trained_config.input.columns, event_time="timestamp_seconds(t + 1767225600)", true_probability="")
    config = replace(
        trained_config,
        lake=replace(trained_config.lake, root=str(tmp_path / "lake")),
        input=replace(trained_config.input, path=raw, columns=columns),
        synthetic=None,
        features=(),
    )
    figures = train_mamdr(spark, config)
    assert figures["domains"] == 4
    assert figures["domains_measured"] == 2
    assert len(load_package(figures["package"]).specific) == 4
    assert figures["oracle_test_auc"] is None
