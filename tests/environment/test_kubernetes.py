"""Spark on Kubernetes: the settings and manifests, and Spark's own executors started from the pods that it asks for."""

import json
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.environment.kubernetes_api import Cluster

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "environment/kubernetes"
JARS = ROOT / ".venv/lib/python3.11/site-packages/pyspark/jars"
CLASSES = {  # where Spark declares its settings
    "spark-kubernetes_2.13-4.0.5.jar": ["org/apache/spark/deploy/k8s/Config$.class"],
    "spark-core_2.13-4.0.5.jar": [
        "org/apache/spark/internal/config/package$.class",
        "org/apache/spark/internal/config/UI$.class",
        "org/apache/spark/resource/ResourceUtils$.class",
    ],
    "spark-launcher_2.13-4.0.5.jar": ["org/apache/spark/launcher/SparkLauncher.class"],
}
COMPOSED = {  # settings that Spark puts together, by what stands for each in its classes
    "spark.kubernetes.authenticate.driver.serviceAccountName": (
        "spark.kubernetes.authenticate.driver",
        "\x01.serviceAccountName",
    ),
    **{
        f"spark.kubernetes.executor.volumes.persistentVolumeClaim.lake.{last}": (
            "spark.kubernetes.executor.volumes.",
            "persistentVolumeClaim",
            last,
        )
        for last in ("mount.path", "options.claimName")
    },
    **{
        f"spark.{whose}.resource.gpu.{last}": (last,)
        for whose in ("executor", "task")
        for last in ("amount", "vendor", "discoveryScript")
    },
}


def settings_of(path: Path) -> dict[str, str]:
    lines = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {key: value.strip() for key, value in lines}


@pytest.fixture(scope="module")
def constants() -> bytes:
    """The class files with Spark's settings, in which a constant follows its length in two bytes."""
    blobs = []
    for jar, names in CLASSES.items():
        with zipfile.ZipFile(JARS / jar) as archive:
            blobs += [archive.read(name) for name in names]
    return b"".join(blobs)


@pytest.mark.parametrize("name", ["conf/spark-defaults.conf", "gpu.properties"])
def test_settings_are_those_of_this_spark(name: str, constants: bytes) -> None:
    def is_declared(text: str) -> bool:
        return b"\x01" + len(text).to_bytes(2, "big") + text.encode() in constants

    settings = settings_of(FOLDER / name)
    assert len(settings) >= 5
    unknown = [key for key in settings if not all(is_declared(part) for part in COMPOSED.get(key, (key,)))]
    assert unknown == []
    assert not is_declared("spark.executor.instance")  # a mistyped key is found


def test_settings_and_manifests_agree() -> None:
    defaults, gpu = settings_of(FOLDER / "conf/spark-defaults.conf"), settings_of(FOLDER / "gpu.properties")
    for settings in (defaults, gpu):
        template = settings["spark.kubernetes.executor.podTemplateFile"]
        assert (ROOT / template.removeprefix("/opt/mamdr/")).is_file()
    assert defaults["spark.task.cpus"] == defaults["spark.executor.cores"]  # one rank an executor
    assert (ROOT / gpu["spark.executor.resource.gpu.discoveryScript"].removeprefix("/opt/mamdr/")).is_file()
    (template,) = yaml.safe_load_all((FOLDER / "executor-gpu.yaml").read_text())
    limits = template["spec"]["containers"][0]["resources"]["limits"]
    amount = int(gpu["spark.executor.resource.gpu.amount"])
    assert limits == {f"{gpu['spark.executor.resource.gpu.vendor']}/gpu": amount}
    assert amount == 1
    claims = [each["metadata"]["name"] for each in documents("access.yaml") if each["kind"] == "PersistentVolumeClaim"]
    assert claims == [defaults["spark.kubernetes.executor.volumes.persistentVolumeClaim.lake.options.claimName"]]
    accounts = [each["metadata"]["name"] for each in documents("access.yaml") if each["kind"] == "ServiceAccount"]
    assert accounts == [defaults["spark.kubernetes.authenticate.driver.serviceAccountName"]]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


@pytest.mark.parametrize("name", ["executor.yaml", "executor-gpu.yaml"])
def test_executors_pods_are_not_root_and_have_shared_memory(name: str) -> None:
    (pod,) = documents(name)
    assert (pod["apiVersion"], pod["kind"]) == ("v1", "Pod")
    spec = pod["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    (container,) = spec["containers"]
    assert container["name"] == "spark-kubernetes-executor"  # the one that Spark completes
    assert not {"image", "args", "command"} & set(container)
    (volume,) = spec["volumes"]
    assert volume["emptyDir"]["medium"] == "Memory"
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]


@pytest.mark.parametrize("name", ["train.yaml", "airflow.yaml"])
def test_pods_that_submit_give_sparks_settings_their_address_and_volumes(name: str) -> None:
    defaults = settings_of(FOLDER / "conf/spark-defaults.conf")
    workload = documents(name)[-1]
    spec = workload["spec"]["template"]["spec"]
    assert workload["metadata"]["namespace"] == defaults["spark.kubernetes.namespace"]
    assert spec["serviceAccountName"] == defaults["spark.kubernetes.authenticate.driver.serviceAccountName"]
    (container,) = spec["containers"]
    variables = {each["name"]: each for each in container["env"]}
    assert variables["SPARK_CONF_DIR"]["value"] == "/opt/mamdr/environment/kubernetes/conf"
    assert variables["SPARK_LOCAL_HOSTNAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert variables["MAMDR_IMAGE"]["value"] == container["image"]
    assert defaults["spark.kubernetes.container.image"] == "${env:MAMDR_IMAGE}"
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert set(mounts) == {each["name"] for each in spec["volumes"]}
    assert mounts["lake"] == defaults["spark.kubernetes.executor.volumes.persistentVolumeClaim.lake.mount.path"]
    for word in container.get("args", []):
        if word.startswith(("jobs/", "environment/")):
            assert (ROOT / word).is_file(), word


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with the pod of the driver."""
    with Cluster(tmp_path) as server:
        server.pods["driver"] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "driver", "namespace": "mamdr", "uid": "7", "resourceVersion": "1"},
            "spec": {"containers": []},
        }
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        for process in server.processes.values():
            process.kill()
            process.wait()
        server.shutdown()
        thread.join()


SCRIPT = """
import json, os, sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
numbers = spark.sparkContext.parallelize(range(2), 2)
where = numbers.map(lambda _: (os.environ["SPARK_EXECUTOR_POD_NAME"], sys.executable))
print(json.dumps({"workers": sorted(set(where.collect())), "host": spark.conf.get("spark.driver.host")}))
spark.stop()
"""


def submit(
    cluster: Cluster, settings: dict[str, str], *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the image's spark-submit with conf/, except for the cluster's address and the place of the template."""
    here = {
        "spark.master": f"k8s://http://127.0.0.1:{cluster.server_port}",
        "spark.kubernetes.executor.podTemplateFile": str(FOLDER / "executor.yaml"),
        **settings,
    }
    options = [word for key, value in here.items() for word in ("--conf", f"{key}={value}")]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(cluster.folder),
        "SPARK_CONF_DIR": str(FOLDER / "conf"),
        "SPARK_LOCAL_HOSTNAME": "127.0.0.1",
        **variables,
    }
    return subprocess.run(
        [ROOT / "environment/docker/entrypoint.sh", "spark-submit", *options, *arguments],
        cwd=cluster.folder, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_spark_starts_executors_from_the_image_and_runs_tasks_in_them(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    settings = {
        "spark.kubernetes.executor.enableApiWatcher": "false",
        "spark.kubernetes.executor.apiPollingInterval": "1s",
        "spark.executor.instances": "1",
        "spark.executor.memory": "512m",
        "spark.driver.memory": "512m",
    }
    done = submit(cluster, settings, str(script), MAMDR_IMAGE="registry/mamdr:1", HOSTNAME="driver")
    assert done.returncode == 0, done.stderr
    (name,) = cluster.processes
    python = str(ROOT / ".venv/bin/python")
    assert json.loads(done.stdout) == {"workers": [[name, python]], "host": "127.0.0.1"}

    pod = cluster.pods[name]
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert container["image"] == "registry/mamdr:1"
    assert container["args"] == ["executor"]
    assert container["resources"]["requests"] == {"cpu": "4", "memory": "16896Mi"}  # 512 MB of heap, 16 GB outside it
    assert pod["metadata"]["ownerReferences"][0]["name"] == "driver"
    assert spec["serviceAccountName"] == "mamdr"
    # Of the template.
    assert spec["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert {"/dev/shm", "/data"} <= mounts
    claims = [each["persistentVolumeClaim"]["claimName"] for each in spec["volumes"] if "persistentVolumeClaim" in each]
    assert claims == ["lake"]


@pytest.mark.slow
def test_cluster_mode_asks_for_a_driver_that_the_entry_point_starts(cluster: Cluster) -> None:
    settings = {
        "spark.submit.deployMode": "cluster",
        "spark.kubernetes.container.image": "registry/mamdr:1",
        "spark.kubernetes.driver.pod.name": "train",
        "spark.kubernetes.submission.waitAppCompletion": "false",
    }
    done = submit(cluster, settings, "local:///opt/mamdr/jobs/train_mamdr.py", "--config", "/data/my.yaml")
    assert done.returncode == 0, done.stderr
    container = cluster.pods["train"]["spec"]["containers"][0]
    assert container["image"] == "registry/mamdr:1"
    assert container["args"] == [
        "driver",
        *("--properties-file", "/opt/spark/conf/spark.properties"),
        *("--class", "org.apache.spark.deploy.PythonRunner"),
        *("local:///opt/mamdr/jobs/train_mamdr.py", "--config", "/data/my.yaml"),
    ]
    assert "SPARK_DRIVER_BIND_ADDRESS" in {each["name"] for each in container["env"]}
    assert "spark.executor.memoryOverhead=16g" in cluster.files["spark.properties"]
    assert cluster.files["log4j2.properties"] == (ROOT / "environment/spark/log4j2.properties").read_text()
