"""MLflow and TensorBoard record runs, and a run needs neither."""

import importlib.util
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from pyspark.sql import functions as F

from mamdr_core.config.job_config import load_config
from mamdr_core.config.training import TrackingSettings
from mamdr_core.engine.metrics import DomainMetrics
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.curve import Validation
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.tracking.tracking import EndedRun, attach, check_trackers, track_run

STARTED = datetime(2026, 1, 5, 3, tzinfo=UTC)
AUCS = [0.5, 0.6, 0.7, float("nan"), 0.9]


@pytest.fixture
def store(tmp_path):
    """A local store's URI."""
    return f"sqlite:///{tmp_path}/mlflow/runs.db"


SERVE = """
from mlflow.server import app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def server(tmp_path):
    """URL of MLflow's own server, without the parts that mlflow-skinny lacks."""
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{tmp_path}/server.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(tmp_path / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as serving:
        yield f"http://127.0.0.1:{int(serving.stdout.readline())}"
        serving.terminate()


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="mamdr_core.training.tracking.tracking")
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == "mamdr_core.training.tracking.tracking"
    ]


@pytest.fixture
def closed_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def ended_run(settings, **row):
    """A run of five domains, two validations of theta_S and one of theta_i."""
    config = replace(load_config(overrides=["train.dr.k=4", "lake.root=/data/lake"]), tracking=settings)
    row = {
        "run_id": "r-1", "status": "ok", "config": "train: {}\n", "input_versions": {"examples": 7, "domains": 2},
        "started_at": STARTED, "finished_at": STARTED + timedelta(minutes=9), "experiment": None, **row,
    }  # fmt: skip
    rows = torch.tensor([10.0, 20, 30, 0, 50], dtype=torch.float64)
    auc = torch.tensor(AUCS, dtype=torch.float64)
    measured = DomainMetrics(rows, rows / 10, auc, auc, auc, auc)
    curve = [
        Validation("shared", 16, 1, 100, 1.0, 0.6, 0.61, True),
        Validation("shared", 32, 1, 200, 2.0, 0.7, None, True),
        Validation("specific", 1, 1, 300, 3.0, 0.75, 0.76, True),
    ]
    figures = {"run_id": "r-1", "rounds": 32, "test_auc": 0.675, "oracle_test_auc": None, "seconds": {"inner": 8.5}}
    ids = ("a", "b", "c", "d", "e, f")
    return EndedRun(row, config, ids, figures, {"test": measured}, curve)


def known_runs(uri, experiment="mamdr"):
    """What MLflow's own client finds, newest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    return client, client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


@pytest.mark.slow
def test_mlflow_gets_parameters_figures_curves_versions_and_files(store, tmp_path, warnings):
    settings = TrackingSettings(mlflow=store, experiment="daily")
    track_run(ended_run(settings, ds=STARTED.date(), parent_run_id="r-0", code_version="abc"))
    assert warnings() == []
    client, (run,) = known_runs(store, "daily")
    assert (run.info.run_name, run.info.status) == ("r-1", "FINISHED")
    assert run.info.end_time - run.info.start_time == 9 * 60 * 1000
    assert (run.data.params["train.dr.k"], run.data.params["train.method"]) == ("4", "mixed")
    assert not [name for name in run.data.params if name.startswith(("input", "lake", "tracking"))]
    expected = {"delta.examples": "7", "delta.domains": "2", "mamdr.run_id": "r-1", "mamdr.parent_run_id": "r-0"}
    assert expected.items() <= run.data.tags.items()
    assert (run.data.tags["mamdr.ds"], run.data.tags["mamdr.lake"]) == ("2026-01-05", "/data/lake")
    metrics = run.data.metrics
    assert (metrics["test_auc"], metrics["seconds/inner"], metrics["rounds"]) == (0.675, 8.5, 32)
    assert (metrics["test/auc_p50"], metrics["test/auc_p25"]) == (pytest.approx(0.65), pytest.approx(0.575))
    curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "shared/val_auc")]
    assert curve == [(16, 0.6), (32, 0.7)]
    assert metrics["specific/weighted_val_auc"] == 0.76
    files = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (files / "config.yaml").read_text() == "train: {}\n"
    lines = (files / "domains.csv").read_text().splitlines()
    assert lines[1] == "test,a,10,1,0.5,0.5,0.5"
    assert [line.split(",")[1] for line in lines[1:4]] == ["a", "b", "c"]
    assert lines[4].startswith('test,"e, f",50,5,0.9')
    assert str(files).startswith(str(tmp_path)), "the store's files lie beside it"


@pytest.mark.slow
def test_a_resumed_run_replaces_what_mlflow_knew_and_takes_its_report(store, warnings):
    settings = TrackingSettings(mlflow=store)
    track_run(
        replace(ended_run(settings, status="stopped", error="stopped by SIGTERM"), figures={}, metrics={}, curve=())
    )
    _, (run,) = known_runs(store)
    assert (run.info.status, run.data.tags["mamdr.error"]) == ("KILLED", "stopped by SIGTERM")
    track_run(ended_run(settings))
    attach(settings, "r-1", "r-1.html", "<p>report</p>")
    client, (run,) = known_runs(store)
    assert run.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"r-1.html", "metrics.json"}
    assert warnings() == []
    attach(settings, "other", "other.html", "")
    assert "it has no run other, so other.html was not added" in warnings()[0]


@pytest.mark.slow
def test_runs_of_a_comparison_share_a_parent_on_a_server(server, capfd, warnings):
    settings = TrackingSettings(mlflow=server)
    for name in ("r-1", "r-2"):
        track_run(ended_run(settings, run_id=name, experiment="seeds"))
    assert warnings() == []
    assert capfd.readouterr().out == "", "stdout is for the job's JSON"
    client, found = known_runs(server)
    by_name = {run.info.run_name: run for run in found}
    assert set(by_name) == {"r-1", "r-2", "seeds"}
    parents = {by_name[name].data.tags["mlflow.parentRunId"] for name in ("r-1", "r-2")}
    assert parents == {by_name["seeds"].info.run_id}
    files = {file.path for file in client.list_artifacts(by_name["r-2"].info.run_id)}
    assert files == {"config.yaml", "domains.csv", "metrics.json"}


@pytest.mark.slow
def test_event_files_hold_curves_and_the_distribution_over_domains(tmp_path, warnings):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = TrackingSettings(tensorboard=str(tmp_path / "events"))
    for _ in range(2):  # recorded twice, stored once
        track_run(ended_run(settings))
    assert warnings() == []
    events = EventAccumulator(str(tmp_path / "events/r-1"), size_guidance={"histograms": 0})
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars("shared/val_auc")] == [
        (16, pytest.approx(0.6)),
        (32, pytest.approx(0.7)),
    ]
    assert events.Scalars("figures/test_auc")[0].value == pytest.approx(0.675)
    (histogram,) = (event.histogram_value for event in events.Histograms("test/domain_auc"))
    assert (histogram.num, histogram.min, histogram.max) == (4, 0.5, pytest.approx(0.9))
    parameters = events.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| train.dr.k | 4 |" in parameters
    assert "examples: version 7" in events.Tensors("inputs/text_summary")[0].tensor_proto.string_val[0].decode()


@pytest.mark.slow
def test_a_run_ends_well_and_at_once_where_no_tracker_can_be_reached(
    spark, trained_config, tmp_path, closed_port, warnings
):
    blocked = tmp_path / "file"
    blocked.write_text("")
    settings = TrackingSettings(mlflow=f"http://127.0.0.1:{closed_port}", tensorboard=str(blocked))
    config = replace(trained_config, tracking=settings, train=replace(trained_config.train, epochs=1))
    figures = train_mamdr(spark, config)
    of_mlflow, of_tensorboard = warnings()
    assert of_mlflow.startswith(f"could not report to MLflow at http://127.0.0.1:{closed_port}, which does not affect")
    assert str(blocked) in of_tensorboard
    started = time.monotonic()
    track_run(ended_run(settings))
    assert time.monotonic() - started < 15
    runs = Lake(spark, config.lake.root).read("training_runs").where(F.col("run_id") == figures["run_id"])
    assert [row["status"] for row in runs.collect()] == ["ok"]


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up(warnings):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        track_run(ended_run(TrackingSettings(mlflow=uri, seconds=1)))
    assert warnings() == [
        f"could not report to MLflow at {uri}, which does not affect the run: not finished after 1 s (tracking.seconds)"
    ]


def test_a_tracker_that_is_not_installed_is_named_before_the_run(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))
    check_trackers(TrackingSettings(tensorboard="events"))
    with pytest.raises(MamdrError, match=r"tracking.mlflow is set, but mlflow .* pip install 'mamdr\[tracking\]'"):
        check_trackers(TrackingSettings(mlflow="http://tracker"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("mlflow=runs", "expected http://HOST or sqlite:///FILE"),
        ("mlflow=file:///runs", "expected http://HOST or sqlite:///FILE"),
        ("mlflow=https://me:secret@host/x", "tracking.mlflow: https://***@host/x contains credentials"),
        ("tensorboard=s3://bucket/events", "expected a local folder"),
        ("seconds=0", "tracking.seconds must be > 0"),
    ],
)
def test_a_place_that_cannot_be_is_refused(setting, message):
    with pytest.raises(MamdrError) as refused:
        load_config(overrides=[f"tracking.{setting}"])
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)
