"""Jobs called as their command line calls them, in the tests' session."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mamdr_core.config.command_line import run_job
from tests.session_jobs import jobs_in

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def run_in_session(spark, capsys) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run a job in the tests' session: exit code, the JSON object, and stderr."""

    def run(name: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
        spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with jobs_in(spark):
            code = run_job(getattr(module, name), list(arguments))
        printed = capsys.readouterr()
        return code, json.loads(printed.out.splitlines()[-1]), printed.err

    return run
