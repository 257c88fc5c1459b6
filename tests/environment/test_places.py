"""The doctor's checks of cluster, store and tracker, against real sockets."""

import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Healthy(BaseHTTPRequestHandler):
    """Answers as an MLflow server does."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch):
    """The module, which is stored next to the scripts of set-up."""
    monkeypatch.syspath_prepend(ROOT / "environment")
    import places

    return places


@pytest.fixture
def server() -> Iterator[str]:
    """HOST:PORT of a server that responds."""
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def closed() -> Iterator[str]:
    """HOST:PORT on which no process listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_a_cluster_has_a_valid_name_and_responds(places, server, closed, monkeypatch, tmp_path):
    assert places.check_cluster("local[2]") == ("local[2], this machine", "")
    assert places.check_cluster(f"spark://{server}") == (f"spark://{server} responds", "")
    assert places.check_cluster(f"k8s://https://{server}")[1] == ""
    assert places.check_cluster(f"spark://{closed},{server}")[1] == ""
    found, todo = places.check_cluster(f"spark://{closed}")
    assert "does not respond" in found
    assert "Connection refused" in found
    assert todo.startswith("start it")
    assert places.check_cluster("mesos://host")[1].startswith("expected local[N]")
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    assert places.check_cluster("yarn")[1] == "set HADOOP_CONF_DIR to its yarn-site.xml"
    (tmp_path / "yarn-site.xml").write_text("<configuration/>")
    assert places.check_cluster("yarn") == (f"yarn, described in {tmp_path}", "")


def test_a_store_must_respond_at_its_endpoint_and_a_folder_be_writable(places, server, closed, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    settings = tmp_path / "spark-defaults.conf"
    settings.write_text(f"spark.master local\nspark.hadoop.fs.s3a.endpoint   http://{server}\n")
    assert places.check_lake("s3a://bucket/lake", settings) == (f"s3a://bucket/lake at http://{server} responds", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{closed}")
    found, todo = places.check_lake("s3a://bucket/lake", settings)
    assert f"http://{closed} does not respond" in found
    assert "AWS_ENDPOINT_URL" in todo
    assert places.check_lake(str(tmp_path / "new/lake"), settings) == (str(tmp_path / "new/lake"), "")


def test_a_tracker_that_does_not_respond_is_reported(places, server, closed):
    assert places.check_tracker("") == ("none (tracking.mlflow)", "")
    assert places.check_tracker(f"http://{server}") == (f"http://{server} responds", "")
    assert places.check_tracker(f"http://{server}/wrong")[1] == "is it an MLflow server?"
    assert "runs do not require it" in places.check_tracker(f"http://{closed}")[1]


def test_a_config_names_the_lake_and_the_tracker_or_has_an_error(places, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("lake: {root: /data/lake}\ntracking: {mlflow: 'http://mlflow:5000'}\n")
    bad.write_text("lake: {rot: /data/lake}\n")
    assert places.read_config(str(good)) == ({"lake": "/data/lake", "tracker": "http://mlflow:5000"}, "")
    assert places.read_config(str(bad)) == ({}, "unknown config key lake.rot; did you mean lake.root?")


def test_a_gpu_is_reported_with_support_by_torch_and_horovod(places, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert places.check_gpu(lambda code: (False, "")) == ("none, training runs on the CPU", "")
    (tmp_path / "nvidia-smi").write_text(f"#!{sys.executable}\nprint('GPU 0: NVIDIA H100 (UUID: GPU-1)')\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert places.check_gpu(lambda code: (True, "True True")) == ("1, the first NVIDIA H100, Horovod with NCCL", "")
    assert places.check_gpu(lambda code: (True, "True False"))[1].startswith("install torch's CUDA toolkit")
    assert places.check_gpu(lambda code: (False, "no CUDA"))[0].endswith("which torch cannot use")
