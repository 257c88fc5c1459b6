"""Checks of vector instructions, which each process would repeat, are kept."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch._inductor.cpu_vec_isa import VecISA

from mamdr_core.engine.vector_isa import keep_checks, remembered


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_only_a_check_that_succeeded_is_kept(cache: Path) -> None:
    asked: list[tuple[str, str]] = []
    answers = {"old": False, "new": True}

    def check(isa: Any, code: str) -> bool:
        asked.append((isa._arch_flags, code))
        return answers[isa._arch_flags]

    old, new = SimpleNamespace(_arch_flags="old"), SimpleNamespace(_arch_flags="new")
    for _ in range(2):  # each as a new process would ask
        kept = remembered(check, "gcc {}".format, lambda: str(cache))
        assert [kept(new, "a"), kept(new, "b"), kept(old, "a")] == [True, True, False]
    assert asked == [("new", "a"), ("new", "b"), ("old", "a"), ("old", "a")]


def test_a_check_of_torch_is_kept_for_other_processes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VecISA, "check_build", getattr(VecISA.check_build, "__wrapped__", VecISA.check_build))
    keep_checks()
    kept = VecISA.check_build
    keep_checks()
    assert VecISA.check_build is kept
    broken, isa = "not C++", VecISA()
    monkeypatch.setattr(VecISA, "_arch_flags", "", raising=False)
    monkeypatch.setattr(VecISA, "_macro", [], raising=False)
    assert not isa.check_build(broken)
    assert not list(cache.glob("mamdr-checked-*"))
    assert isa.check_build('extern "C" int one() { return 1; }')
    assert len(list(cache.glob("mamdr-checked-*"))) == 1
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: 1 / 0)
    assert isa.check_build('extern "C" int one() { return 1; }')
