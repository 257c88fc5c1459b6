"""Checks whether torch.compile can work on this machine, and mends its cache of generated code."""

import importlib.util
import os
import re
import shlex
import shutil
import sysconfig
from pathlib import Path

import torch

_CUT = re.compile(r"(/\S+\.so): (?:file too short|cannot read file data|invalid ELF header)")


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


def remove_cut_library(error: Exception) -> bool:
    """Remove the library of generated code that torch could not load because a killed process left it unfinished.

    Torch would load it again in every later process, and fail.

    Returns:
        Whether it was that error, so that compiling again helps.
    """
    found = _CUT.search(str(error))
    if found:
        Path(found[1]).unlink(missing_ok=True)
    return found is not None
