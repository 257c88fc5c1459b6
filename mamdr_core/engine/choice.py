"""Which engine runs a training."""

import importlib.util
import logging
import os
import shlex
import shutil
import sysconfig
from pathlib import Path

import torch

from mamdr_core.errors import MamdrError

logger = logging.getLogger(__name__)

FAST_ROWS = 3_000_000
"""Row-descents of a rank from which `auto` takes the fast engine: compiling takes 10 to 40 s, and so many rows of the
paper's network take the eager engine half a minute in full batches, longer in small ones (benchmarks/README.md)."""


def choose_engine(name: str, device: torch.device, rows: int) -> str:
    """Eager or fast.

    Args:
        name: "eager", "fast", or "auto": fast where steps can be compiled and pay for it.
        device: where it runs.
        rows: rows that the rank may descend on at most, every visit counted.

    Raises:
        MamdrError: fast is asked for where steps cannot be compiled.
    """
    if name == "eager":
        return name
    trouble = _trouble(device)
    if name == "fast":
        if trouble:
            raise MamdrError(f"train.engine is fast, but {trouble}: use auto or eager")
        return name
    if not trouble and rows < FAST_ROWS:
        trouble = f"{rows:,} row-descents at most do not repay compiling ({FAST_ROWS:,} do)"
    if trouble:
        logger.info("the eager engine runs: %s", trouble)
    return "eager" if trouble else "fast"


def _trouble(device: torch.device) -> str:
    """Why torch.compile cannot work here; empty: nothing is known to be missing."""
    if device.type == "cuda":
        if not importlib.util.find_spec("triton"):
            return "Triton is not installed"
        compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]  # Triton builds its launcher
    else:
        compilers = [os.environ.get("CXX") or "g++"]
    if not any(shutil.which(shlex.split(compiler)[0]) for compiler in compilers):
        return f"there is no compiler {' or '.join(compilers)}"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "Python's header files (Python.h) are not installed"
    return ""
