"""The doctor: a line a component, whatever state the machine is in."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = [
    "Python",
    "Java",
    "Spark",
    "Delta JARs",
    "S3 JARs",
    "Petastorm",
    "torch",
    "Horovod",
    "GPU",
    "memory",
    "cores",
    "cache",
]


def ask_doctor(python: str | Path, root: Path, *arguments: str) -> tuple[int, dict[str, str]]:
    """The doctor's exit code and what it says of each component."""
    command = [python, root / "environment/doctor.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = {line[:11].strip(): line[12:] for line in done.stdout.splitlines()}
    assert done.stderr == ""
    return done.returncode, lines


@pytest.mark.slow
def test_after_set_up_every_component_is_ok() -> None:
    code, lines = ask_doctor(sys.executable, ROOT)
    assert list(lines) == COMPONENTS
    required = [name for name in COMPONENTS if name not in ("memory", "cores", "GPU")]
    assert {name: lines[name].rpartition(": ")[2] for name in required} == dict.fromkeys(required, "ok")
    assert "CUDA" in lines["torch"]
    assert "with gloo" in lines["Horovod"]
    assert code == 0


def test_before_set_up_it_says_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "environment", tmp_path / "environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    code, lines = ask_doctor(tmp_path / "bare/bin/python", tmp_path)
    assert list(lines) == COMPONENTS
    missing = ("Spark", "Petastorm", "torch", "Horovod")
    assert {lines[name] for name in missing} == {"not installed: run make setup"}
    assert {lines[name] for name in ("Delta JARs", "S3 JARs")} == {"no Spark to hold them: run make setup"}
    assert code == 1
