"""Checks whether torch.compile can work on this machine, and repairs its cache of generated code."""

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import sysconfig
from pathlib import Path

import torch

_TRUNCATED = re.compile(r"(/\S+\.so): (?:file too short|cannot read file data|invalid ELF header)")


def compiler_trouble(device: torch.device) -> str:
    """The reason why torch.compile cannot work for a device; empty if nothing is known to be missing."""
    if device.type == "cuda":
        if not importlib.util.find_spec("triton"):
            return "Triton is not installed"
        compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]  # Triton compiles its launcher
    else:
        compilers = [os.environ.get("CXX") or "g++"]
    if not any(shutil.which(shlex.split(compiler)[0]) for compiler in compilers):
        return f"there is no compiler {' or '.join(compilers)}"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "Python's header files (Python.h) are not installed"
    return ""


def remove_truncated_library(error: Exception) -> bool:
    """Remove a library of torch's cache that torch could not load because a killed process left it unfinished.

    Torch would load it again in every later process, and fail.

    Returns:
        Whether it was removed, so that compiling again helps.
    """
    with contextlib.suppress(ImportError, FileNotFoundError):  # torch lacks the name, or another rank removed it
        from torch._inductor.runtime.cache_dir_utils import cache_dir  # half a second

        found = _TRUNCATED.search(str(error))
        if found and Path(found[1]).is_relative_to(cache_dir()):
            Path(found[1]).unlink()
            return True
    return False
