"""The CUDA device of this process, and whether torch can use it."""

import os
from contextlib import suppress

import torch


def cuda_device() -> torch.device:
    """The CUDA device of this process: the local rank modulo the number of devices."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def use_cuda() -> None:
    """Make the CUDA device of this process the current one if torch can use it.

    To be called before ranks join: otherwise libraries allocate memory for all ranks on the first device.
    """
    if not cuda_trouble():
        with suppress(RuntimeError):  # another process has exclusive use; ranks report it when they agree on devices
            torch.cuda.set_device(cuda_device())


def cuda_trouble() -> str:
    """The reason why this process cannot use CUDA; empty if it can."""
    if not torch.version.cuda:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():  # also if the driver is too old, with a warning of torch
        return f"torch finds no CUDA device here, or none whose driver is new enough for CUDA {torch.version.cuda}"
    index, built = cuda_device().index, torch.cuda.get_arch_list()
    major, minor = torch.cuda.get_device_capability(index)
    if _runs_on(built, major, minor):
        return ""
    device = f"CUDA device {index} ({torch.cuda.get_device_name(index)}, sm_{major}{minor})"
    return f"{device} is not among those that this torch is built for ({', '.join(built)})"


def _runs_on(built: list[str], major: int, minor: int) -> bool:
    """Whether torch, built for some architectures, runs on a device of a compute capability.

    Machine code (sm_) runs on devices of the same major and the same or a later minor version, PTX (compute_) on all
    later devices (CUDA C++ Programming Guide, "Application Compatibility").
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
