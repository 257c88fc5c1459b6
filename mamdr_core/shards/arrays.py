"""Storage of a rank's large arrays: in memory, or in memory-mapped scratch files that the kernel pages in and out."""

import logging
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)

MOUNTS = Path("/proc/self/mounts")
_IN_MEMORY = ("tmpfs", "ramfs")


class Arrays:
    """Allocates large arrays.

    A mapped array is used like any other; the kernel evicts its pages when memory is short. Its file is unlinked, so
    that a failed rank leaves no files.

    Args:
        mapped: memory-map the arrays instead of keeping them in memory.
        folder: folder of the mapped files, on a disk; empty: the system's temporary folder.
        bound: the config key that bounds what is kept in memory, for messages.
        instead: what to do, other than raising `bound`, if the folder has no space.
    """

    def __init__(
        self,
        mapped: bool = False,
        folder: str = "",
        bound: str = "train.host_memory",
        instead: str = "raise train.ranks",
    ) -> None:
        self.mapped = mapped
        self.folder = folder or tempfile.gettempdir()
        self._otherwise = f"raise {bound}, or {instead}"
        if mapped:
            warn_if_in_memory(folder, bound)

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array with undefined content.

        Raises:
            MamdrError: the folder does not exist, cannot be written or is full.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not self.mapped or not size:
            return np.empty(shape, dtype)  # uses huge pages, unlike np.zeros: filling it is six times as fast
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a signal later
                pages = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise MamdrError(
                f"train.scratch: cannot allocate {size / 1e9:.3g} GB in {self.folder} ({error.strerror}): choose a "
                f"folder on a disk with more space, {self._otherwise}"
            ) from None
        return np.frombuffer(pages, dtype).reshape(shape)


def warn_if_in_memory(folder: str, bound: str) -> None:
    """Warn if a scratch folder is in memory, where it makes a bound of memory ineffective.

    Args:
        folder: the scratch folder; empty: the system's temporary folder.
        bound: config key of the bound.
    """
    if is_in_memory(folder):
        folder = folder or tempfile.gettempdir()
        logger.warning(
            "train.scratch: %s is in memory (%s), so %s has no effect: choose a folder on a disk",
            folder, file_system(folder), bound,
        )  # fmt: skip


def is_in_memory(folder: str) -> bool:
    """Whether a scratch folder is on a file system in memory; empty: the system's temporary folder."""
    return file_system(folder or tempfile.gettempdir()) in _IN_MEMORY


def file_system(folder: str) -> str:
    """The type of a folder's file system, e.g. ext4 or tmpfs; empty on systems without /proc.

    Example:
        >>> file_system("/dev/shm")  # doctest: +SKIP
        'tmpfs'
    """
    if not MOUNTS.exists():
        return ""
    path = Path(folder).resolve()
    kind_of = {}
    for line in MOUNTS.read_text(encoding="utf-8").splitlines():
        _, mounted, kind, *_ = line.split(" ")
        kind_of[mounted.replace("\\040", " ")] = kind  # the last mount on a path hides earlier ones
    return next((kind_of[str(parent)] for parent in (path, *path.parents) if str(parent) in kind_of), "")
