"""Stores the results of torch's checks of vector instructions, which each process would repeat.

Before its first kernel every process of torch 2.9 checks up to six times, in a new Python process that imports torch,
whether a library that is compiled for such instructions can be loaded: 15 s of a rank's first round on a slow machine.
Torch's own switch, `TORCHINDUCTOR_VEC_ISA_OK`, skips some of these checks without ever making them. Whether the
processor has the instructions is checked separately, in every process.
"""

import contextlib
import hashlib
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

Check = Callable[[Any, str], bool]


def keep_checks() -> None:
    """Record successful checks in torch's cache of compiled code, so that later processes skip them.

    If torch lacks the private names, nothing changes.
    """
    with contextlib.suppress(ImportError, AttributeError):
        # Importing takes half a second, and only compiled steps need it.
        from torch._inductor.cpu_vec_isa import VecISA, _get_isa_dry_compile_fingerprint
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        if not hasattr(VecISA.check_build, "__wrapped__"):
            kept = remembered(VecISA.check_build, _get_isa_dry_compile_fingerprint, cache_dir)
            VecISA.check_build = kept  # type: ignore[method-assign, assignment]  # replaced on purpose


def remembered(check: Check, fingerprint: Callable[[str], str], folder: Callable[[], str]) -> Check:
    """`VecISA.check_build` that does not repeat a check that succeeded with the same torch, compiler and flags.

    Args:
        check: the method.
        fingerprint: text that identifies torch, the compiler and given flags.
        folder: returns the folder in which checks are recorded.
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
