"""Reads selected row groups of a pinned version's Parquet files as Arrow batches."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from mamdr_core.config.training import ReaderName
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.heartbeat import beat
from mamdr_core.runtime.object_store import SCHEME, file_system
from schemas import DeclaredTable

BATCH_ROWS = 1 << 16
"""Rows that are decoded together: few enough to stay in a core's cache until they are copied."""


@dataclass(frozen=True)
class RowGroupRun:
    """Row groups of one Parquet file, at least one, that are read one after another; numbers start from 0.

    Attributes:
        footer: the file's metadata (pyarrow FileMetaData), if it was read before.
    """

    url: str
    numbers: tuple[int, ...]
    footer: Any = field(default=None, compare=False, repr=False)


def read_footers(urls: Sequence[str]) -> list[Any]:
    """The Parquet metadata of some files (pyarrow FileMetaData), in the given order.

    Raises:
        MamdrError: a file is missing or damaged.
    """

    def read(url: str) -> Any:
        with _open(*locate(url)) as file:
            return file.metadata

    with ThreadPoolExecutor(16) as threads:  # they wait for the object store
        return list(threads.map(read, urls))


def read_batches(
    runs: Sequence[RowGroupRun], table: DeclaredTable, columns: Sequence[str], reader: ReaderName = "petastorm"
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield the batches of `read_runs` one after another, each with the URL of its file."""
    for url, batches in read_runs(runs, table, columns, reader):
        for batch in batches:
            yield url, batch


def read_runs(
    runs: Sequence[RowGroupRun], table: DeclaredTable, columns: Sequence[str], reader: ReaderName = "petastorm"
) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
    """Yield the URL and the batches of each run, in the given order.

    A thread that iterates over the batches of a run opens its file and decodes them, so threads can share the runs.
    Batches have at most `BATCH_ROWS` rows, so memory does not grow with row groups; small row groups share a batch.

    Args:
        runs: of files of one pinned version.
        reader: library that reads them; both yield the same batches.

    Raises:
        MamdrError: a file is missing or damaged, or the reader is Petastorm, which is not installed.
    """
    if not runs:
        return
    read = _read_with_petastorm if reader == "petastorm" else _read_with_arrow
    for run, batches in zip(runs, read(runs, table, columns), strict=True):
        yield run.url, batches


def _read_with_arrow(
    runs: Sequence[RowGroupRun], table: DeclaredTable, columns: Sequence[str]
) -> Iterator[Iterator[pa.RecordBatch]]:
    for run in runs:
        yield read_run(*locate(run.url), run, columns)


def _read_with_petastorm(
    runs: Sequence[RowGroupRun], table: DeclaredTable, columns: Sequence[str]
) -> Iterator[Iterator[pa.RecordBatch]]:
    try:
        from mamdr_core.shards import petastorm_reader  # Petastorm is needed by this reader only
    except ImportError as error:
        raise MamdrError(
            f"train.reader is petastorm, and Petastorm cannot be imported ({error}): install it, or set "
            "train.reader: arrow, which reads the same rows"
        ) from None
    return petastorm_reader.read_runs(runs, table, columns)


def read_run(
    system: pyarrow.fs.FileSystem, path: str, run: RowGroupRun, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Read columns of a run, whose file is stored at `path`, in batches of at most `BATCH_ROWS` rows.

    Raises:
        MamdrError: the file is missing or damaged.
    """
    with _open(system, path, run.footer) as file:
        # pyarrow fetches all requested row groups of an object into memory before it decodes them.
        is_local = isinstance(system, pyarrow.fs.LocalFileSystem)
        for requested in [list(run.numbers)] if is_local else [[number] for number in run.numbers]:
            for batch in file.iter_batches(BATCH_ROWS, requested, list(columns), use_threads=False):
                beat()
                yield batch


def locate(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a file, and its path there; Spark percent-encodes its URLs."""
    if url.startswith(SCHEME):
        return file_system(urlsplit(url).netloc), unquote(url.removeprefix(SCHEME))
    return pyarrow.fs.LocalFileSystem(), unquote(urlsplit(url).path)


@contextmanager
def _open(system: pyarrow.fs.FileSystem, path: str, footer: Any = None) -> Iterator[pq.ParquetFile]:
    """Open a file, whose footer may have been read before; errors while it is open name it."""
    try:
        is_local = isinstance(system, pyarrow.fs.LocalFileSystem)
        # With pre_buffer, adjacent columns of an object are fetched in one request.
        source = path if is_local else system.open_input_file(path)
        with pq.ParquetFile(source, metadata=footer, pre_buffer=not is_local) as file:
            yield file
    except FileNotFoundError:
        raise MamdrError(
            f"{path} of the pinned version does not exist: was the table vacuumed? Run build_examples, or increase the "
            "retention of versions"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise MamdrError(f"{path} cannot be read ({error}): run build_examples again") from None
