"""The doctor prints a line for each component in every state of the machine."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

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
    "disk",
    "cache",
]


def ask_doctor(python: str | Path, root: Path, *arguments: str) -> tuple[int, dict[str, str]]:
    """The doctor's exit code, and its line for each component."""
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


def test_before_set_up_it_states_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "environment", tmp_path / "environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    code, lines = ask_doctor(tmp_path / "bare/bin/python", tmp_path)
    assert list(lines) == COMPONENTS
    missing = ("Spark", "Petastorm", "torch", "Horovod")
    assert {lines[name] for name in missing} == {"not installed: run make setup"}
    assert {lines[name] for name in ("Delta JARs", "S3 JARs")} == {"no Spark to hold them: run make setup"}
    assert code == 1


def test_set_up_needs_more_free_disk_space_than_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "environment")
    import doctor

    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=5 << 30))
    assert doctor.check_disk() == doctor.Finding(f"{tmp_path}, 5 GiB free", "free 10 GiB")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.setup").touch()
    assert doctor.check_disk().todo == ""
