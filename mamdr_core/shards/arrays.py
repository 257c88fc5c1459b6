"""Where a rank's large arrays lie: in memory, or in memory-mapped scratch files that the kernel pages in and out."""

import logging
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mamdr_core.errors import MamdrError

logger = logging.getLogger(__name__)

MOUNTS = Path("/proc/self/mounts")
_IN_MEMORY = ("tmpfs", "ramfs")


class Arrays:
    """Makes large arrays.

    A mapped array is used like any other; its pages are cache, which the kernel takes back when memory is short. Its
    file has no name in the folder, so that a rank that dies leaves nothing behind.

    Args:
        mapped: memory-map them instead of keeping them in memory.
        folder: of the mapped files, on a disk; empty: the system's temporary folder.
        bound: the setting that bounds what is kept in memory, for messages.
        instead: what to do, other than raising `bound`, where the folder has no room.
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
        """An array of any content, to be filled.

        Raises:
            MamdrError: the folder does not exist, cannot be written or is full.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not self.mapped or not size:
            return np.empty(shape, dtype)  # numpy asks for huge pages here, not for np.zeros: six times as fast to fill
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a signal later
                pages = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise MamdrError(
                f"train.scratch: no room for {size / 1e9:.3g} GB in {self.folder} ({error.strerror}): name a folder on "
                f"a disk with room, {self._otherwise}"
            ) from None
        return np.frombuffer(pages, dtype).reshape(shape)


def warn_if_in_memory(folder: str, bound: str) -> None:
    """Log where a scratch folder does not keep the setting that bounds memory."""
    if is_in_memory(folder):
        folder = folder or tempfile.gettempdir()
        logger.warning(
            "train.scratch: %s lies in memory (%s), so %s bounds nothing: name a folder on a disk",
            folder, file_system(folder), bound,
        )  # fmt: skip


def is_in_memory(folder: str) -> bool:
    """Whether a scratch folder is on a file system in memory; empty: the system's temporary folder."""
    return file_system(folder or tempfile.gettempdir()) in _IN_MEMORY


def file_system(folder: str) -> str:
    """The kind of file system that a folder lies on, e.g. ext4 or tmpfs; empty where the system does not tell.

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
        kind_of[mounted.replace("\\040", " ")] = kind  # of several on one point, the last one is seen
    return next((kind_of[str(parent)] for parent in (path, *path.parents) if str(parent) in kind_of), "")
