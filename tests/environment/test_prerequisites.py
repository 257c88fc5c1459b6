"""Set-up on a machine that lacks something prints one sentence for each missing thing."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash") or "/bin/bash"


def check(path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [BASH, str(ROOT / "environment/prerequisites.sh")]
    environment = {"PATH": path, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def write_command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!{BASH}\n{script}\n")
    path.chmod(0o755)


def test_everything_missing_is_one_sentence_each(tmp_path: Path) -> None:
    done = check(str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    wanted = [
        "git is missing",
        "make is missing",
        "Python 3.11 is missing",
        "A C++ compiler is missing",
        "Java is missing",
    ]
    lines = done.stderr.splitlines()
    assert [line.startswith(f"error: {words}") for line, words in zip(lines, wanted, strict=True)] == [True] * 5
    assert all("install" in line for line in lines)


def test_a_java_that_spark_cannot_use_is_named_with_its_version(tmp_path: Path) -> None:
    write_command(tmp_path, "java", """echo 'openjdk version "11.0.22" 2024-01-16' >&2""")
    done = check(f"{tmp_path}:{os.environ['PATH']}")
    assert "Java is version 11.0.22" in done.stderr
    assert "needs 17 or 21" in done.stderr


def test_a_python_shim_that_does_not_start_is_passed_over(tmp_path: Path) -> None:
    write_command(tmp_path, "python3.11", "exit 127")
    write_command(tmp_path, "python3", f'exec "{ROOT}/.venv/bin/python" "$@"')
    done = check(f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{ROOT}/.venv/bin/python\n"


def test_set_up_stops_before_it_makes_anything(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "environment", tmp_path / "environment")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "dirname").symlink_to(shutil.which("dirname") or "/usr/bin/dirname")
    (tools / "bash").symlink_to(BASH)
    (tools / "env").symlink_to(shutil.which("env") or "/usr/bin/env")
    command = [BASH, str(tmp_path / "environment/setup.sh")]
    environment = {"PATH": str(tools), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Python 3.11 is missing" in done.stderr
    assert not (tmp_path / ".venv").exists()
    assert not (tmp_path / ".cache").exists()


def test_a_java_home_without_java_is_named() -> None:
    done = check(os.environ["PATH"], JAVA_HOME="/nowhere")
    assert "Java is missing (/nowhere/bin/java does not run)" in done.stderr
