"""Equal slots for vectors, in memory or in a scratch file: what theta_i of many domains lies in."""

import errno
import os
import tempfile
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mamdr_core.runtime.errors import MamdrError

GROWTH_BYTES = 1 << 26
"""Slots are added by about this many bytes at a time."""


class Slots(Protocol):
    """Numbered slots of one vector [P] each; `grow` adds some at the end."""

    where: str
    """memory or file."""

    def grow(self) -> int:
        """Add slots; how many there are now."""

    def read(self, slot: int, out_P: Tensor) -> None:
        """Copy a slot into `out_P`, on the CPU."""

    def write(self, slot: int, values_P: Tensor) -> None:
        """Copy `values_P`, on the CPU, into a slot."""


class MemorySlots:
    """Slots in the host's memory.

    Args:
        like: a vector [P] of the type of the slots.
    """

    where = "memory"

    def __init__(self, like: Tensor) -> None:
        self._like = torch.empty_like(like, device="cpu")  # a GPU's memory is for what it works on
        self._each = max(1, GROWTH_BYTES // max(1, like.nbytes))
        self._blocks: list[Tensor] = []

    def grow(self) -> int:
        """Add slots; how many there are now."""
        self._blocks.append(self._like.new_empty(self._each, len(self._like)))
        return len(self._blocks) * self._each

    def read(self, slot: int, out_P: Tensor) -> None:
        """Copy a slot into `out_P`."""
        out_P.copy_(self._blocks[slot // self._each][slot % self._each])

    def write(self, slot: int, values_P: Tensor) -> None:
        """Copy `values_P` into a slot."""
        self._blocks[slot // self._each][slot % self._each].copy_(values_P)


class FileSlots:
    """Slots in a file, read and written explicitly.

    Not memory-mapped: mapped pages count as resident until the kernel takes them back, and a full disk would be a
    signal and not an error. The file has no name, so that a rank that dies leaves nothing behind.

    Args:
        like: a vector [P] of the type of the slots.
        folder: on a local disk.

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
        """Add slots; how many there are now."""
        size = self._size + self._each
        try:  # a full disk is met here, before anything is written
            os.posix_fallocate(self._file.fileno(), self._size * self._bytes, self._each * self._bytes)
        except OSError as error:
            raise self._explained(error) from None
        self._size = size
        return size

    def read(self, slot: int, out_P: Tensor) -> None:
        """Copy a slot into `out_P`."""
        self._transfer(os.preadv, out_P, slot)

    def write(self, slot: int, values_P: Tensor) -> None:
        """Copy `values_P` into a slot."""
        self._transfer(os.pwritev, values_P, slot)

    def _transfer(self, call: Callable[[int, list[memoryview], int], int], vector_P: Tensor, slot: int) -> None:
        view = vector_P.numpy().data.cast("B")
        done = 0
        try:
            while done < self._bytes:
                moved = call(self._file.fileno(), [view[done:]], slot * self._bytes + done)
                if not moved:
                    raise OSError(errno.EIO, "the file is too short")
                done += moved
        except OSError as error:
            raise self._explained(error) from None

    def _explained(self, error: OSError) -> MamdrError:
        return MamdrError(
            f"train.scratch: theta_i has no room in {self._folder} ({error.strerror}): name a folder on a disk with "
            "room, or raise train.specific_memory or train.ranks"
        )


def slots_for(like: Tensor, vectors: int, memory_bytes: float, folder: str) -> Slots:
    """Slots in memory if the vectors fit into the given number of bytes, otherwise in a file in `folder`."""
    if vectors * like.nbytes <= memory_bytes:
        return MemorySlots(like)
    return FileSlots(like, folder)
