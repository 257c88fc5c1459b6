"""Folders with a manifest on a disk or in an object store, which is read and written through a local copy.

A store has no renames and needs none: files appear complete, and the manifest, which makes a folder valid, last.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.heartbeat import beat
from mamdr_core.runtime.object_store import AnyPath, StorePath
from mamdr_core.training.files.manifest import MANIFEST, check_integrity

_AT_A_TIME, _PART = 4, 8 << 20


@contextmanager
def staged(folder: AnyPath, scratch: str = "") -> Iterator[Path]:
    """Local folder to write files to: the folder itself on a disk, or a temporary one that is uploaded at the end.

    Args:
        folder: the target, which may already contain files.
        scratch: parent of the temporary folder; empty: the system's temporary folder.
    """
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mamdr-", dir=scratch or None) as local:
        yield Path(local)
        names = [file.name for file in Path(local).iterdir()]
        _copy(Path(local), folder, [name for name in names if name != MANIFEST])
        _copy(Path(local), folder, [name for name in names if name == MANIFEST])


@contextmanager
def fetched(folder: AnyPath, kind: str, scratch: str = "", only: str | tuple[str, ...] = "") -> Iterator[Path]:
    """Local folder to read from within the block: the folder itself on a disk, or a checked copy of a store's folder.

    Files of the copy that are open at the end of the block remain readable.

    Args:
        folder: a folder with a manifest.
        kind: what the folder is, for error messages.
        scratch: parent of the copy; empty: the system's temporary folder.
        only: prefix, or prefixes, of the files to copy.

    Raises:
        MamdrError: the copy does not match its manifest.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mamdr-", dir=scratch or None) as local:
        names = [child.name for child in folder.iterdir() if child.name == MANIFEST or child.name.startswith(only)]
        _copy(folder, Path(local), names)
        try:
            check_integrity(Path(local), kind, only)
            yield Path(local)
        except MamdrError as error:
            if local not in str(error):
                raise
            raise MamdrError(str(error).replace(local, str(folder))) from None


def remove(folder: AnyPath) -> None:
    """Remove a folder if it exists; errors are ignored."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        folder.system.delete_dir(folder.key)


def _copy(source: AnyPath, target: AnyPath, names: list[str]) -> None:
    """Copy files between a disk and a store."""

    def copy(name: str) -> None:
        (here, from_system), (there, to_system) = (_located(folder / name) for folder in (source, target))
        with from_system.open_input_stream(here) as data, to_system.open_output_stream(there) as copied:
            while part := data.read(_PART):
                copied.write(part)
                beat()

    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        list(threads.map(copy, names))


def _located(file: AnyPath) -> tuple[str, fs.FileSystem]:
    return (file.key, file.system) if isinstance(file, StorePath) else (str(file), fs.LocalFileSystem())
