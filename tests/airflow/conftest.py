"""An Airflow of its own for the tests: a scratch home with SQLite and nothing but the project's DAG."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-airflow/bin/python"
Airflow = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
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

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PYTHON, *arguments],
            env={**os.environ, **settings, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    migrated = run("-m", "airflow", "db", "migrate")
    assert migrated.returncode == 0, migrated.stderr
    return run
