"""An Airflow of its own for the tests: a scratch home with SQLite and nothing but the project's DAG."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-airflow/bin/python"
Airflow = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """Run Airflow's Python with ARGUMENTS and the project's DAG folder; keyword arguments are environment variables."""
    if not PYTHON.exists():
        pytest.skip("no .venv-airflow: run make airflow")
    home = tmp_path_factory.mktemp("airflow")
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "airflow_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "MAMDR_RETRIES": "0",  # a failing task fails now, not after its back-off
    }
    with (
        (home / "forked.log").open("wb") as log,
        subprocess.Popen(
            [PYTHON, Path(__file__).with_name("forked.py")],
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            bufsize=1,
        ) as server,
    ):

        def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
            files = {name: str(home / name) for name in ("stdout", "stderr")}
            for file in files.values():
                Path(file).write_text("")
            server.stdin.write(json.dumps({"arguments": arguments, "variables": variables, **files}) + "\n")
            code = server.stdout.readline()
            assert code, (home / "forked.log").read_text()
            return subprocess.CompletedProcess(
                arguments, int(code), *(Path(file).read_text() for file in files.values())
            )

        migrated = run("-m", "airflow", "db", "migrate")
        assert migrated.returncode == 0, migrated.stderr
        yield run
