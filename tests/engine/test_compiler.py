"""Code that a killed process left unfinished in torch's cache is compiled again."""

import ctypes
import shutil
from pathlib import Path

import numpy
import pytest
import torch

from mamdr_core.engine.compiler import remove_truncated_library
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import Theta
from tests.engine.engines import COUNTS, visit
from tests.models.small_structures import featured_columns, small_engine, small_settings


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()


@pytest.mark.parametrize("size", [0, 100])
def test_a_library_that_cannot_be_loaded_because_it_was_cut_is_removed(tmp_path, size):
    library = tmp_path / "cache" / "generated.main.so"
    shutil.copy(next(Path(numpy.__file__).parent.glob("core/_multiarray_umath*.so")), library)
    with library.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(OSError) as error:
        ctypes.CDLL(str(library))
    assert remove_truncated_library(RuntimeError(f"InductorError: OSError: {error.value}\nSet TORCHDYNAMO_VERBOSE=1"))
    assert not library.exists()


def test_a_library_with_other_faults_remains(tmp_path):
    library = tmp_path / "cache" / "generated.main.so"
    library.write_bytes(b"whole")
    assert not remove_truncated_library(OSError(f"{library}: undefined symbol: gone"))
    assert library.exists()


def test_libraries_outside_of_torchs_cache_remain(tmp_path):
    library = tmp_path / "libc.so"
    library.write_text("a linker script")
    assert not remove_truncated_library(OSError(f"{library}: invalid ELF header"))
    assert library.exists()


@pytest.mark.parametrize("unfinished", ["gradients", "begin_adam"])
def test_a_step_whose_code_was_cut_is_compiled_again(tmp_path, monkeypatch, unfinished):
    library = tmp_path / "cache" / "generated.main.so"
    library.touch()

    def compiled(call, **_):
        def run(*arguments):
            if unfinished in call.__name__ and library.exists():
                raise torch._dynamo.exc.BackendCompilerFailed("inductor", OSError(f"{library}: file too short"), None)
            return call(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    settings, columns = small_settings("mlp"), featured_columns(COUNTS)
    fast, shared = small_engine(settings, len(COUNTS), FastEngine, compiles=True)
    eager, _ = small_engine(settings, len(COUNTS))
    found, expected = (each.descend(Theta(shared), [visit(columns, 0)], 0.05, "adam") for each in (fast, eager))
    torch.testing.assert_close(found.dense, expected.dense)
    assert not library.exists()
