"""The wheel: built from the tracked files and installed into a folder of its own, it runs the jobs by `mamdr`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's contents and nothing else of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "installed"
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={source}/"], cwd=ROOT, check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("mamdr-*-py3-none-any.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


def mamdr(installed, *arguments):
    """The console command, which finds the packages of the lock file in this environment."""
    return subprocess.run(
        [installed / "bin/mamdr", *arguments], cwd=installed.parent, env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_an_installed_wheel_lists_its_jobs_and_runs_one_by_its_prefix(installed, tmp_path):
    listed = mamdr(installed)
    jobs = {path.stem for path in (ROOT / "jobs").glob("[!_]*.py")}
    assert {line.split()[0] for line in listed.stdout.splitlines()[3:]} == jobs
    assert listed.returncode == 0

    synthetic = "synthetic={rows: 40, domains: 2, users: 10, items: 10}"
    made = mamdr(installed, "generate", "--set", f"input.path={tmp_path}/raw", "--set", synthetic)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout.splitlines()[-1])["job"] == "generate_logs"
    assert list((tmp_path / "raw").rglob("*.parquet"))


def test_an_ambiguous_or_unknown_job_is_an_error_that_names_the_candidates(installed):
    ambiguous = mamdr(installed, "con", "--help")
    assert (ambiguous.returncode, ambiguous.stdout) == (2, "")
    assert ambiguous.stderr == "error: job con: expected one of conflict, convert_amazon, convert_taobao\n"
    assert mamdr(installed, "trian").stderr.startswith("error: job trian: expected one of build_examples, ")


def test_the_wheel_holds_every_module_and_data_file_of_its_packages(installed):
    listed = subprocess.run(
        ["git", "ls-files", "jobs", "mamdr_core", "schemas"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    missing = [file for file in listed.stdout.split() if not (installed / file).exists()]
    assert not missing
    assert not (installed / "tests").exists()
