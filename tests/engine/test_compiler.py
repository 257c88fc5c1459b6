"""Code that a killed process left unfinished in torch's cache is compiled again."""

import ctypes
import shutil
from pathlib import Path

import numpy
import pytest

from mamdr_core.engine.compiler import remove_cut_library


@pytest.mark.parametrize("size", [0, 100])
def test_a_library_that_cannot_be_loaded_because_it_was_cut_is_removed(tmp_path, size):
    library = tmp_path / "generated.main.so"
    shutil.copy(next(Path(numpy.__file__).parent.glob("core/_multiarray_umath*.so")), library)
    with library.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(OSError) as error:
        ctypes.CDLL(str(library))
    assert remove_cut_library(RuntimeError(f"InductorError: OSError: {error.value}\nSet TORCHDYNAMO_VERBOSE=1"))
    assert not library.exists()


def test_a_library_with_other_faults_remains(tmp_path):
    library = tmp_path / "generated.main.so"
    library.write_bytes(b"whole")
    assert not remove_cut_library(OSError(f"{library}: undefined symbol: gone"))
    assert library.exists()
