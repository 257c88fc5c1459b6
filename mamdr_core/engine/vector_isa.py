"""Stores the results of torch's checks of vector instructions, which each process would repeat.

Before its first kernel every process of torch 2.9 checks up to six times, in a new Python process that imports torch,
whether a library that is compiled for such instructions can be loaded: 15 s of a rank's first round on a slow machine.
Torch's own switch, `TORCHINDUCTOR_VEC_ISA_OK`, skips some of these checks without making them at all. Whether the
processor has the instructions is a question that torch asks separately, in every process.
"""

import contextlib
import hashlib
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

Check = Callable[[Any, str], bool]


def keep_checks() -> None:
    """Let checks that succeed leave a file in torch's cache of compiled code, and later processes skip them.

    With a torch that has no such private methods, nothing changes.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from torch._inductor.cpu_vec_isa import VecISA  # half a second, which only compiled steps need

        if not hasattr(VecISA.check_build, "__wrapped__"):
            VecISA.check_build = remembered(VecISA.check_build)  # type: ignore[method-assign, assignment]


def remembered(check: Check) -> Check:
    """`VecISA.check_build` that does not repeat a check that succeeded with the same torch, compiler and flags."""

    @wraps(check)
    def check_build(isa: Any, code: str) -> bool:
        try:
            from torch._inductor.cpu_vec_isa import _get_isa_dry_compile_fingerprint
            from torch._inductor.runtime.cache_dir_utils import cache_dir
        except ImportError:
            return check(isa, code)
        checked = f"{_get_isa_dry_compile_fingerprint(isa._arch_flags)}\n{code}"
        mark = Path(cache_dir(), f"mamdr-checked-{hashlib.sha256(checked.encode()).hexdigest()}")
        if mark.exists():
            return True
        succeeded = check(isa, code)
        if succeeded:
            with contextlib.suppress(OSError):  # a full disk
                mark.touch()
        return succeeded

    return check_build
