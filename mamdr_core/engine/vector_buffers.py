"""Storage of vectors of equal size, in memory or in a scratch file, for theta_i of many domains."""

import errno
import os
import tempfile
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mamdr_core.runtime.errors import MamdrError

GROWTH_BYTES = 1 << 26
"""Number of bytes, approximately, by which storage grows."""


class VectorBuffer(Protocol):
    """A growing buffer of numbered entries, each for one vector [P]."""

    where: str
    """memory or file."""

    def grow(self) -> int:
        """Add entries at the end; returns the new number of entries."""

    def read(self, entry: int, out_P: Tensor) -> None:
        """Copy an entry into `out_P`, a tensor on the CPU."""

    def write(self, entry: int, values_P: Tensor) -> None:
        """Copy `values_P`, a tensor on the CPU, into an entry."""


class MemoryBuffer:
    """A buffer in the memory of the host.

    Args:
        like: a vector [P] of the type of an entry.
    """

    where = "memory"

    def __init__(self, like: Tensor) -> None:
        self._like = torch.empty_like(like, device="cpu")  # even if theta_S is on a GPU
        self._each = max(1, GROWTH_BYTES // max(1, like.nbytes))
        self._blocks: list[Tensor] = []

    def grow(self) -> int:
        """See `VectorBuffer`."""
        self._blocks.append(self._like.new_empty(self._each, len(self._like)))
        return len(self._blocks) * self._each

    def read(self, entry: int, out_P: Tensor) -> None:
        """See `VectorBuffer`."""
        out_P.copy_(self._blocks[entry // self._each][entry % self._each])

    def write(self, entry: int, values_P: Tensor) -> None:
        """See `VectorBuffer`."""
        self._blocks[entry // self._each][entry % self._each].copy_(values_P)


class FileBuffer:
    """A buffer in a file.

    The file is not memory-mapped: mapped pages count as resident memory until the kernel reclaims them, and a full disk
    would cause a signal instead of an error. It has no name, so a killed rank leaves no file behind.

    Args:
        like: a vector [P] of the type of an entry.
        folder: folder on a local disk; empty: the system's temporary folder.

    Raises:
        MamdrError: the folder does not exist, cannot be written or is full.
    """

    where = "file"

    def __init__(self, like: Tensor, folder: str) -> None:
        self._bytes = like.nbytes
        self._each = max(1, GROWTH_BYTES // max(1, like.nbytes))
        self._size = 0
        self._folder = folder or tempfile.gettempdir()
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as this object
        except OSError as error:
            raise self._explained(error) from None

    def grow(self) -> int:
        """See `VectorBuffer`."""
        size = self._size + self._each
        try:  # reports a full disk before anything is written
            os.posix_fallocate(self._file.fileno(), self._size * self._bytes, self._each * self._bytes)
        except OSError as error:
            raise self._explained(error) from None
        self._size = size
        return size

    def read(self, entry: int, out_P: Tensor) -> None:
        """See `VectorBuffer`."""
        self._transfer(os.preadv, out_P, entry)

    def write(self, entry: int, values_P: Tensor) -> None:
        """See `VectorBuffer`."""
        self._transfer(os.pwritev, values_P, entry)

    def _transfer(self, call: Callable[[int, list[memoryview], int], int], vector_P: Tensor, entry: int) -> None:
        view = vector_P.numpy().data.cast("B")
        done = 0
        try:
            while done < self._bytes:
                moved = call(self._file.fileno(), [view[done:]], entry * self._bytes + done)
                if not moved:
                    raise OSError(errno.EIO, "the file is too short")
                done += moved
        except OSError as error:
            raise self._explained(error) from None

    def _explained(self, error: OSError) -> MamdrError:
        return MamdrError(
            f"train.scratch: cannot store theta_i in {self._folder} ({error.strerror}): choose a folder on a disk with "
            "more space, or raise train.specific_memory or train.ranks"
        )


def buffer_for(like: Tensor, vectors: int, memory_bytes: float, folder: str) -> VectorBuffer:
    """A buffer in memory if the vectors fit in `memory_bytes`, otherwise in a file in `folder`."""
    if vectors * like.nbytes <= memory_bytes:
        return MemoryBuffer(like)
    return FileBuffer(like, folder)
