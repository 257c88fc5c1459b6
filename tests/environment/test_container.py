"""The container: the Dockerfile's parts, the entry point that Spark on Kubernetes starts, and the packages kept."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINT = ROOT / "environment/docker/entrypoint.sh"
EXECUTOR = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@10.0.0.1:7078",
    "SPARK_EXECUTOR_ID": "3",
    "SPARK_EXECUTOR_CORES": "4",
    "SPARK_EXECUTOR_MEMORY": "4096m",
    "SPARK_APPLICATION_ID": "spark-application-17",
    "SPARK_EXECUTOR_POD_IP": "10.0.0.2",
    "SPARK_EXECUTOR_POD_NAME": "train-exec-3",
    "SPARK_RESOURCE_PROFILE_ID": "0",
    "SPARK_CONF_DIR": "/opt/spark/conf",
}
"""What Spark 4.0 sets in an executor's pod."""


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder with a java and an nvidia-smi; java prints its arguments, one in each line."""
    folder = tmp_path / "commands"
    folder.mkdir()
    for name, script in {"java": "printf '%s\\n' \"$@\"", "nvidia-smi": "printf '0\\n1\\n'"}.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


def start(commands: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Start the entry point in the folder of `commands`, in an environment of `variables` alone."""
    environment = {"PATH": f"{commands}:/usr/bin:/bin", **variables}
    return subprocess.run(
        [ENTRY_POINT, *arguments], cwd=commands, env=environment, capture_output=True, text=True, check=False
    )


def test_executors_command_follows_sparks_variables(commands: Path) -> None:
    options = {f"SPARK_JAVA_OPT_{number}": f"-Dnumber={number} and more" for number in range(11)}
    done = start(commands, "executor", **EXECUTOR, **options, SPARK_CLASSPATH="/extra/*", SPARK_USER="mamdr")
    assert done.returncode == 0, done.stderr
    jars = ROOT / ".venv/lib/python3.11/site-packages/pyspark/jars"
    assert done.stdout.splitlines() == [
        *options.values(),
        "-Xms4096m",
        "-Xmx4096m",
        "-cp",
        f"/opt/spark/conf:/extra/*:{jars}/*:{commands}",
        "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
        *("--driver-url", "spark://CoarseGrainedScheduler@10.0.0.1:7078"),
        *("--executor-id", "3"),
        *("--cores", "4"),
        *("--app-id", "spark-application-17"),
        *("--hostname", "10.0.0.2"),
        *("--resourceProfileId", "0"),
        *("--podName", "train-exec-3"),
    ]
    assert jars.is_dir()


def test_executor_without_a_variable_of_spark_names_it(commands: Path) -> None:
    variables = {name: value for name, value in EXECUTOR.items() if name != "SPARK_DRIVER_URL"}
    done = start(commands, "executor", **variables)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "SPARK_DRIVER_URL: is set by Spark on Kubernetes" in done.stderr


def test_java_home_comes_before_path(commands: Path, tmp_path: Path) -> None:
    (tmp_path / "home/bin").mkdir(parents=True)
    (tmp_path / "home/bin/java").write_text("#!/bin/bash\necho the one of JAVA_HOME\n")
    (tmp_path / "home/bin/java").chmod(0o755)
    done = start(commands, "executor", **EXECUTOR, JAVA_HOME=str(tmp_path / "home"))
    assert done.stdout == "the one of JAVA_HOME\n", done.stderr


def test_driver_runs_spark_submit_in_client_mode_at_its_pods_address(commands: Path, tmp_path: Path) -> None:
    # A copy of the entry point in a tree whose spark-submit prints its arguments.
    root = tmp_path / "opt/mamdr"
    (root / "environment/docker").mkdir(parents=True)
    (root / ".venv/bin").mkdir(parents=True)
    shutil.copy(ENTRY_POINT, root / "environment/docker")
    shutil.copy(commands / "java", root / ".venv/bin/spark-submit")
    (tmp_path / "entrypoint.sh").symlink_to(root / "environment/docker/entrypoint.sh")  # as run.sh places it
    arguments = [
        "--properties-file",
        "/opt/spark/conf/spark.properties",
        "--class",
        "x.Main",
        "local:///a b.py",
        "--set",
    ]
    done = subprocess.run(
        [tmp_path / "entrypoint.sh", "driver", *arguments],
        env={"PATH": "/usr/bin:/bin", "SPARK_DRIVER_BIND_ADDRESS": "10.0.0.1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    settings = ["--conf", "spark.driver.bindAddress=10.0.0.1", "--deploy-mode", "client"]
    assert done.stdout.splitlines() == [*settings, *arguments]


def test_any_other_command_runs_with_the_environments_programs_first(commands: Path) -> None:
    done = start(commands, "bash", "-c", 'command -v python; echo "$SPARK_HOME" "$PYSPARK_PYTHON"; exit 3')
    assert done.returncode == 3
    python, spark_home = ROOT / ".venv/bin/python", ROOT / ".venv/lib/python3.11/site-packages/pyspark"
    assert done.stdout.splitlines() == [str(python), f"{spark_home} {python}"]
    empty = start(commands)
    assert (empty.returncode, empty.stdout) == (2, "")
    assert empty.stderr.startswith("error: no command was given: expected spark-submit")


def test_gpus_are_listed_as_spark_reads_them(commands: Path) -> None:
    script = ROOT / "environment/docker/discover_gpus.sh"
    done = subprocess.run([script], env={"PATH": f"{commands}:/usr/bin:/bin"}, capture_output=True, check=True)
    assert json.loads(done.stdout) == {"name": "gpu", "addresses": ["0", "1"]}


def test_dockerfile_builds_from_parts_that_exist_for_a_user_who_is_not_root() -> None:
    dockerfile = load("environment/dockerfile.py")
    stages = {stage.name: stage for stage in dockerfile.read_dockerfile((ROOT / "Dockerfile").read_text())}
    assert {name: stage.base for name, stage in stages.items()} == {
        "build": "debian:bookworm-slim",
        "build-airflow": "build",
        "run": "debian:bookworm-slim",
        "airflow": "run",
        "mamdr": "run",  # the last one is what a plain `docker build` makes
    }
    steps = {(step.word, step.rest) for step in stages["run"].instructions}
    assert {("USER", "10001:10001"), ("WORKDIR", "/opt/mamdr"), ("COPY", "/opt/mamdr /opt/mamdr")} <= steps
    assert ("ENTRYPOINT", '["/usr/bin/tini", "--", "/opt/entrypoint.sh"]') in steps
    run = (ROOT / "environment/docker/run.sh").read_text()
    assert "useradd --uid 10001 --gid 10001" in run
    assert "ln -s /opt/mamdr/environment/docker/entrypoint.sh /opt/entrypoint.sh" in run
    commands = [step.rest.split()[0] for stage in stages.values() for step in stage.instructions if step.word == "RUN"]
    assert commands == ["environment/docker/build.sh", "environment/docker/build.sh", "/mnt/run.sh"]
    for name in ("build.sh", "run.sh", "entrypoint.sh", "discover_gpus.sh"):
        assert os.access(ROOT / "environment/docker" / name, os.X_OK), name


def test_context_holds_what_set_up_and_jobs_read_and_nothing_that_a_clone_grows() -> None:
    dockerfile = load("environment/dockerfile.py")
    names = set(dockerfile.context_names((ROOT / ".dockerignore").read_text()))
    assert {"jobs", "mamdr_core", "schemas", "environment", "conf", "airflow_dags"} <= names
    assert {"setup.cfg", "pyproject.toml", "README.md"} <= names  # read by the installation of this repository
    assert all((ROOT / name).exists() for name in names)
    assert not names & {".git", ".venv", "lake", ".demo", "tests"}


def test_packages_that_jobs_import_stay_in_the_image_and_tools_do_not() -> None:
    remove_unused = load("environment/docker/remove_unused.py")
    keep = remove_unused.needed(remove_unused.PROJECT, frozenset(remove_unused.EXTRAS))
    assert {"torch", "nvidia-nccl-cu12", "pyspark", "py4j", "horovod", "petastorm", "psutil", "jinja2"} <= keep
    assert not keep & {"pytest", "ruff", "mypy", "mkdocs-material", "moto", "playwright", "cmake", "uv", "pip"}

    owners = packages_distributions()
    imported = set()
    for folder in ("mamdr_core", "schemas", "jobs"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    imported.add(node.module.split(".")[0])
    outside = {name for name in imported & set(owners) if name not in ("mamdr_core", "schemas", "jobs")}
    assert {"torch", "pyspark", "pydantic", "horovod"} <= outside
    removed = {name for name in outside if not {remove_unused.normalize(each) for each in owners[name]} & keep}
    assert removed == set()
