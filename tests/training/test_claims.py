"""Which process trains a run."""

import json
import subprocess
import sys

import psutil
import pytest

from mamdr_core.training.checkpoint.claims import claim, is_claimed, is_trained_elsewhere


@pytest.fixture
def other(tmp_path):
    """Another process, which claims the run of this folder and waits."""
    imports = "import sys; from pathlib import Path; from mamdr_core.training.checkpoint.claims import claim"
    code = f"{imports}; claim(Path(sys.argv[1]))"
    command = [sys.executable, "-c", f"{code}; print(); sys.stdout.flush(); sys.stdin.read()", str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_run_is_trained_elsewhere_while_the_process_lives(tmp_path, other):
    assert is_trained_elsewhere(tmp_path)
    other.kill()
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:  # as under a parent that never waits
        pass
    assert not is_trained_elsewhere(tmp_path)
    other.wait()
    assert not is_trained_elsewhere(tmp_path)


def test_a_clock_that_is_set_meanwhile_changes_nothing(tmp_path, other, monkeypatch):
    before, started = psutil._pslinux.boot_time(), psutil.Process(other.pid).create_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: before + 3600)
    assert psutil.Process(other.pid).create_time() == pytest.approx(started + 3600, abs=2)
    assert is_trained_elsewhere(tmp_path)
    owner = json.loads((tmp_path / "owner.json").read_text())
    (tmp_path / "owner.json").write_text(json.dumps(owner | {"started": owner["started"] - 3600}))
    assert not is_trained_elsewhere(tmp_path)  # its number was given to another process


def test_ones_own_run_nobodys_and_that_of_another_machine_are_free(tmp_path):
    assert (is_claimed(tmp_path), is_trained_elsewhere(tmp_path)) == (False, False)
    claim(tmp_path)
    assert (is_claimed(tmp_path), is_trained_elsewhere(tmp_path)) == (True, False)
    owner = json.loads((tmp_path / "owner.json").read_text()) | {"host": "elsewhere", "pid": 1}
    for text in (json.dumps(owner), "{"):
        (tmp_path / "owner.json").write_text(text)
        assert (is_claimed(tmp_path), is_trained_elsewhere(tmp_path)) == (False, False)


def test_what_cannot_be_read_is_not_taken_for_free(tmp_path):
    (tmp_path / "owner.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        is_trained_elsewhere(tmp_path)
