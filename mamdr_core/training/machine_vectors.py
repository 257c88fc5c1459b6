"""Reads fixed vectors once per machine: one rank writes them to a scratch file, which all ranks of the machine map.

Its pages are cache that the ranks share, so vectors may be larger than the memory of the machine. The name of the file
is removed when all ranks have mapped it, and the kernel frees the file when the last rank ends or is killed. A run that
was killed earlier leaves an unlocked file, which the next run removes.
"""

import contextlib
import fcntl
import mmap
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.parallel.collective import Collective, all_reduce_max, gather_texts
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.loading import Share
from mamdr_core.training.choices import gather_trouble

PREFIX, SUFFIX = "mamdr-", ".vectors"
"""Prefix and suffix of the file names."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""An id of the machine that is equal in all of its containers."""
EXCHANGE_SECONDS = 5.0
"""Interval of collectives while some ranks read and others wait; each is a heartbeat (mamdr_core.parallel.watch)."""
_ALIGNMENT = 64
_MAP_NORESERVE = 0x4000
"""Linux flag for pages that count as cache; without it a private mapping must not be larger than memory."""

Shapes = Mapping[str, tuple[int, int]]


def machine_vectors(share: Share, collective: Collective, scratch: str = "") -> dict[str, Tensor]:
    """The fixed vectors by feature, read-only float32 [vocabulary + 1, size]; all ranks must call this.

    Args:
        share: reads the vectors; it has the same features and version on all ranks.
        scratch: folder of the file, with space for all fixed vectors; ranks of a machine with the same folder share the
            file. Empty: the system's temporary folder.

    Raises:
        MamdrError: the lake has no vectors of that name and length, or the folder is full; the same error on all ranks.
    """
    shapes = share.vector_shapes(trainable=False)
    if not shapes:
        return {}
    folder = Path(scratch or tempfile.gettempdir())
    places = gather_texts(collective, sharing_key(folder))
    first = places.index(places[collective.rank])
    vectors: dict[str, NDArray[np.float32]] = {}
    path = ""

    def read() -> Iterator[None]:
        nonlocal path
        if collective.rank == first:
            file = VectorFile(folder, shapes)
            removals.callback(file.remove)
            path = file.path
            yield from share.fill_vectors(file.arrays, trainable=False)

    def open_or_read() -> Iterator[None]:
        if found := _read_only(paths[first], folder, shapes):
            vectors.update(found)
            return
        alone = VectorFile(folder, shapes)
        alone.remove()
        vectors.update(alone.arrays)
        yield from share.fill_vectors(vectors, trainable=False)

    with contextlib.ExitStack() as removals:
        _take_steps(collective, read())
        paths = gather_texts(collective, path)
        _take_steps(collective, open_or_read())  # afterwards all ranks have mapped the file
    return {name: torch.from_numpy(own) for name, own in vectors.items()}


def _take_steps(collective: Collective, steps: Iterator[None]) -> None:
    """Take this rank's steps. All ranks exchange a number every few seconds, so that none waits long in a collective.

    Args:
        steps: yields several times a minute; empty on ranks that only wait.

    Raises:
        MamdrError: the errors of all ranks; the same error on all ranks.
    """
    trouble, goes_on = "", True
    while all_reduce_max(collective, int(goes_on)):
        ends = time.monotonic() + EXCHANGE_SECONDS
        try:
            goes_on = any(time.monotonic() >= ends for _ in steps)  # false once the steps are finished
        except MamdrError as error:
            trouble, goes_on = str(error), False
    found = gather_trouble(collective, trouble)
    if found.text:
        raise MamdrError(found.text)


def sharing_key(folder: Path) -> str:
    """Text that is equal for ranks that can share a file of a folder: machine, device and inode."""
    machine = BOOT_ID.read_text(encoding="ascii").strip() if BOOT_ID.exists() else socket.gethostname()
    try:
        found = folder.stat()
    except OSError:
        return machine  # the rank that builds the file reports it
    return f"{machine} {found.st_dev} {found.st_ino}"


class VectorFile:
    """A new file of vectors, locked until its name is removed.

    Raises:
        MamdrError: the folder does not exist, cannot be written or is full.
    """

    def __init__(self, folder: Path, shapes: Shapes) -> None:
        remove_leftovers(folder)
        size = _layout(shapes)[1]
        try:
            self._file, self.path = _locked_file(folder)
            try:
                os.posix_fallocate(self._file, 0, size)  # a full disk is an error here, not a signal later
                self.arrays = _mapped(self._file, shapes, mmap.MAP_SHARED)
            except OSError:
                self.remove()
                raise
        except OSError as error:
            raise MamdrError(
                f"train.scratch: cannot store {size / 1e9:.3g} GB of vectors in {folder} ({error.strerror}): choose a "
                "folder on a disk with more space and with file locks"
            ) from None

    def remove(self) -> None:
        """Remove the name and the lock; ranks that have mapped the file keep it."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        os.close(self._file)


def remove_leftovers(folder: Path) -> None:
    """Remove the files of runs that were killed, which are not locked."""
    for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _locked_file(folder: Path) -> tuple[int, str]:
    """A new file and its path. Another run may remove it before it is locked; then a further file is made."""
    while True:
        file, path = tempfile.mkstemp(SUFFIX, PREFIX, folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        except OSError:  # a file system without locks
            os.close(file)
            os.unlink(path)
            raise
        if os.path.exists(path):
            return file, path
        os.close(file)


def _read_only(path: str, folder: Path, shapes: Shapes) -> dict[str, NDArray[np.float32]] | None:
    """The vectors of a file that a rank has filled; None: this rank cannot open it."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _mapped(file, shapes, mmap.MAP_PRIVATE | _MAP_NORESERVE)  # a write by mistake affects only this process
    except OSError as error:
        raise MamdrError(f"train.scratch: cannot map the vectors in {folder} ({error.strerror})") from None
    finally:
        os.close(file)


def _mapped(file: int, shapes: Shapes, flags: int) -> dict[str, NDArray[np.float32]]:
    """The file's arrays."""
    starts, size = _layout(shapes)
    pages = mmap.mmap(file, size, flags, mmap.PROT_READ | mmap.PROT_WRITE)
    return {
        name: np.frombuffer(pages, np.float32, rows * width, starts[name]).reshape(rows, width)
        for name, (rows, width) in shapes.items()
    }


def _layout(shapes: Shapes) -> tuple[dict[str, int], int]:
    """Byte offset of the vectors of each feature, and the size of the file."""
    starts, size = {}, 0
    for name, (rows, width) in shapes.items():
        starts[name] = size
        size += -(-4 * rows * width // _ALIGNMENT) * _ALIGNMENT
    return starts, size
