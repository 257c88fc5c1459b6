"""The device of a rank: the CPU, or the CUDA device that its place on the machine gives it."""

import logging
import os

import torch

from mamdr_core.errors import MamdrError

logger = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """The device of this process; several ranks on one machine take its CUDA devices in turn, by local rank.

    Args:
        name: "cpu"; "cuda"; or "auto": CUDA where torch can use it, else the CPU.

    Raises:
        MamdrError: "cuda" is asked for and this torch can use none here.
    """
    if name == "cpu":
        return torch.device(name)
    trouble = _trouble()
    if not trouble:
        return torch.device("cuda", _index())
    if name == "cuda":
        raise MamdrError(f"train.device is cuda, but {trouble}: use auto or cpu")
    logger.info("training runs on the CPU: %s", trouble)
    return torch.device("cpu")


def _index() -> int:
    """The CUDA device of this rank; launchers tell every process its local rank."""
    return int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()


def _trouble() -> str:
    """Why this rank cannot compute on CUDA; empty: it can."""
    if not torch.version.cuda:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():  # also where the driver is too old, on which torch itself warns
        return f"torch finds no CUDA device here, or none whose driver is new enough for CUDA {torch.version.cuda}"
    index, built = _index(), torch.cuda.get_arch_list()
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
