"""Where a rank's large arrays lie: in memory, or in memory-mapped scratch files that the kernel pages in and out."""

import mmap
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mamdr_core.errors import MamdrError


class Arrays:
    """Makes large arrays.

    A mapped array is used like any other; its pages are cache, which the kernel takes back when memory is short. Its
    file has no name in the folder, so that a rank that dies leaves nothing behind.

    Args:
        mapped: memory-map them instead of keeping them in memory.
        folder: of the mapped files, on a disk; empty: the system's temporary folder.
    """

    def __init__(self, mapped: bool = False, folder: str = "") -> None:
        self.mapped = mapped
        self.folder = folder or tempfile.gettempdir()

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
                "a disk with room, or raise train.host_memory or train.ranks"
            ) from None
        return np.frombuffer(pages, dtype).reshape(shape)
