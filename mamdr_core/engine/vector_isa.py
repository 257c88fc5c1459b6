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

    With a torch that has no such private names, nothing changes.
    """
    with contextlib.suppress(ImportError, AttributeError):
        # Half a second, which only compiled steps need.
        from torch._inductor.cpu_vec_isa import VecISA, _get_isa_dry_compile_fingerprint
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        if not hasattr(VecISA.check_build, "__wrapped__"):
            kept = remembered(VecISA.check_build, _get_isa_dry_compile_fingerprint, cache_dir)
            # A replaced method is what mypy is there to find.
            VecISA.check_build = kept  # type: ignore[method-assign, assignment]


def remembered(check: Check, fingerprint: Callable[[str], str], folder: Callable[[], str]) -> Check:
    """`VecISA.check_build` that does not repeat a check that succeeded with the same torch, compiler and flags.

    Args:
        check: the method.
        fingerprint: text that names torch, the compiler and given flags.
        folder: gives the folder in which checks are remembered.
    """

    @wraps(check)
    def check_build(isa: Any, code: str) -> bool:
        checked = f"{fingerprint(isa._arch_flags)}\n{code}"
        mark = Path(folder(), f"mamdr-checked-{hashlib.sha256(checked.encode()).hexdigest()}")
        if mark.exists():
            return True
        succeeded = check(isa, code)
        if succeeded:
            with contextlib.suppress(OSError):  # a full disk
                mark.touch()
        return succeeded

    return check_build
