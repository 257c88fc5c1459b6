"""The CUDA device of this process: which one it is, and whether torch can use it."""

import os
from contextlib import suppress

import torch


def cuda_device() -> torch.device:
    """The CUDA device of this process; ranks on one machine take its devices in turn, by their local rank."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def use_cuda() -> None:
    """Make this process's CUDA device the current one if torch can use it.

    Before it joins other ranks: otherwise what libraries allocate for all ranks of a machine is on its first device.
    """
    if not cuda_trouble():
        with suppress(RuntimeError):  # of a device that others hold alone: found again where ranks agree on devices
            torch.cuda.set_device(cuda_device())


def cuda_trouble() -> str:
    """Why this process cannot compute on CUDA; empty: it can."""
    if not torch.version.cuda:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():  # also where the driver is too old, on which torch itself warns
        return f"torch finds no CUDA device here, or none whose driver is new enough for CUDA {torch.version.cuda}"
    index, built = cuda_device().index, torch.cuda.get_arch_list()
    major, minor = torch.cuda.get_device_capability(index)
    if _runs_on(built, major, minor):
        return ""
    device = f"CUDA device {index} ({torch.cuda.get_device_name(index)}, sm_{major}{minor})"
    return f"{device} is not among those that this torch is built for ({', '.join(built)})"


def _runs_on(built: list[str], major: int, minor: int) -> bool:
    """Whether a torch that is `built` for these architectures runs on a device of this compute capability.

    Machine code (sm_) runs on its own major version from its own minor on, PTX (compute_) on everything later
    (CUDA C++ Programming Guide, "Application Compatibility").
    """
    for architecture in built:
        kind, _, number = architecture.partition("_")
        digits = number.rstrip("af")  # as in sm_90a
        least = int(digits[:-1]), int(digits[-1])
        if kind == "compute" and (major, minor) >= least:
            return True
        if kind == "sm" and major == least[0] and minor >= least[1]:
            return True
    return False
