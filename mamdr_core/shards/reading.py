"""Reading row groups of our choice through Petastorm's batch reader; the one module that knows Petastorm."""

import logging
import queue
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from mamdr_core.errors import MamdrError
from mamdr_core.heartbeat import beat
from mamdr_core.object_store import SCHEME, file_system
from schemas import Table

with warnings.catch_warnings():
    # Petastorm's own import of deprecated names; nothing that a user can mend.
    warnings.simplefilter("ignore")
    from petastorm.arrow_reader_worker import ArrowReaderWorker
    from petastorm.fs_utils import get_filesystem_and_path_or_paths
    from petastorm.reader import Reader
    from petastorm.unischema import Unischema, UnischemaField
    from petastorm.workers_pool import EmptyResultError
    from pyarrow.filesystem import FileSystem, LocalFileSystem

# Petastorm notes at every reader that it did not write the files itself.
logging.getLogger("petastorm").setLevel(logging.WARNING)

_QUIET = threading.Lock()  # which warnings are shown is a matter of the process, not of a thread
BATCH_ROWS = 1 << 16
"""Rows decoded at a time: few enough to stay in a core's cache until they are copied."""

_NUMPY_TYPES = {
    "string": np.str_,
    "int": np.int32,
    "bigint": np.int64,
    "float": np.float32,
    "double": np.float64,
    "date": np.datetime64,
}


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file: its number in the file, from 0."""

    url: str
    number: int


def unischema(table: Table, columns: Sequence[str]) -> Unischema:
    """The Petastorm schema of some columns of a declared table.

    Raises:
        KeyError: a column is not declared.
    """
    fields = []
    for name in columns:
        column = table.column(name)
        vector = column.type == "array<float>"
        kind = np.float32 if vector else _NUMPY_TYPES[column.type]
        fields.append(UnischemaField(name, kind, (None,) if vector else (), nullable=column.nullable))
    return Unischema(table.name, fields)


def read_footers(urls: Sequence[str]) -> list[Any]:
    """The Parquet metadata of some files (pyarrow FileMetaData), in their order.

    Raises:
        MamdrError: a file is gone or damaged.
    """
    if not urls:
        return []
    filesystem, paths = _locate(urls)

    def read(path: str) -> Any:
        with _blaming(path), _open(filesystem, path) as file:
            return file.metadata

    with ThreadPoolExecutor(16) as threads:  # waiting for a store, not computing
        return list(threads.map(read, paths))


def read_batches(
    groups: Sequence[RowGroup], table: Table, columns: Sequence[str]
) -> Iterator[tuple[RowGroup, pa.RecordBatch]]:
    """Read columns of some row groups, in the given order and in the caller's thread; nothing else is read.

    Yields batches of at most `BATCH_ROWS` rows, each of one row group, so that memory does not grow with row groups.

    Args:
        groups: row groups of files of one pinned version.
        table: their declaration.
        columns: names of columns.

    Raises:
        MamdrError: a file is gone or damaged.
    """
    if not groups:
        return
    with _RowGroupReader(groups, unischema(table, columns)) as reader:
        for group, batches in zip(groups, reader, strict=True):
            for batch in batches:
                beat()
                yield group, batch


class _RowGroupReader(Reader):  # type: ignore[misc]
    """The reader that make_batch_reader makes, over chosen row groups, each as an iterator of Arrow record batches.

    make_batch_reader has no argument for row groups, and its selectors need an index that only Petastorm writes.
    """

    def __init__(self, groups: Sequence[RowGroup], schema: Unischema) -> None:
        urls = list(dict.fromkeys(group.url for group in groups))
        filesystem, paths = _locate(urls)
        path_of = dict(zip(urls, paths, strict=True))
        self._chosen = [(path_of[group.url], group.number) for group in groups]
        with _QUIET, warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)  # pyarrow calls the ParquetDataset it uses old
            super().__init__(
                filesystem,
                paths,
                schema_fields=list(schema.fields.values()),
                worker_class=_BatchWorker,
                reader_pool=_CallersThread(len(groups)),
                shuffle_row_groups=False,
                is_batched_reader=True,
            )

    def _filter_row_groups(self, dataset: Any, row_groups: Sequence[Any], *rest: Any) -> tuple[list[int], None]:
        place = {(piece.path, piece.row_group): number for number, piece in enumerate(row_groups)}
        return [place[chosen] for chosen in self._chosen], None

    def cleanup_cache(self) -> None:
        """There is no cache; Petastorm would say on stdout that it is clean."""


class _BatchWorker(ArrowReaderWorker):  # type: ignore[misc]
    """Petastorm's worker, without its copy of the whole row group and its way through pandas."""

    @staticmethod
    def new_results_queue_reader() -> "_Results":
        return _Results()

    def process(self, piece_index: int, worker_predicate: None, shuffle_row_drop_partition: tuple[int, int]) -> None:
        self.publish_func(self._batches(self._split_pieces[piece_index]))

    def _batches(self, piece: Any) -> Iterator[pa.RecordBatch]:
        with _blaming(piece.path), _open(self._filesystem, piece.path) as file:
            names = list(self._schema.fields)
            yield from file.iter_batches(BATCH_ROWS, [piece.row_group], names, use_threads=False)


class _Results:
    batched_output = True

    def read_next(self, workers_pool: "_CallersThread", schema: Unischema, ngram: None) -> Iterator[pa.RecordBatch]:
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _CallersThread:
    """A pool in Petastorm's sense, without threads, that loses no row group.

    Petastorm's own pools end when their queue is empty and all is dealt, and look at the one before the other: what is
    dealt in between is lost. They also sleep while they wait.

    Args:
        count: number of row groups that will be dealt.
    """

    workers_count = 1

    def __init__(self, count: int) -> None:
        self.diagnostics: dict[str, Any] = {}
        self._left = count
        self._dealt: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._published: list[Iterator[pa.RecordBatch]] = []

    def start(self, worker_class: Any, worker_args: Any, ventilator: Any) -> None:
        self._worker = worker_class(0, self._published.append, worker_args)
        self._ventilator = ventilator
        ventilator.start()

    def ventilate(self, **item: Any) -> None:
        self._dealt.put(item)

    def get_results(self) -> Iterator[pa.RecordBatch]:
        if not self._left:
            raise EmptyResultError
        self._left -= 1
        self._worker.process(**self._dealt.get())
        self._ventilator.processed_item()
        return self._published.pop()

    def stop(self) -> None:
        self._ventilator.stop()

    def join(self) -> None:
        """Nothing runs."""


def _open(filesystem: Any, path: str) -> pq.ParquetFile:
    # pyarrow reads a local file by itself; through Python's file object every column would be copied twice.
    if isinstance(filesystem, LocalFileSystem):
        return pq.ParquetFile(path)
    return pq.ParquetFile(filesystem.open(path), pre_buffer=True)  # neighbouring columns in one request


class _StoreFileSystem(FileSystem):  # type: ignore[misc]
    """An object store as pyarrow's old API, which Petastorm calls, knows file systems.

    Only files of a pinned version are asked for; one that is gone is noticed when it is opened.
    """

    def __init__(self, system: pyarrow.fs.S3FileSystem) -> None:
        self._system = system

    def open(self, path: str, mode: str = "rb") -> pa.NativeFile:
        return self._system.open_input_file(path)

    def isfile(self, path: str) -> bool:
        return True

    def isdir(self, path: str) -> bool:
        return False


@contextmanager
def _blaming(path: str) -> Iterator[None]:
    """Name the file in what goes wrong with it."""
    try:
        yield
    except FileNotFoundError:
        raise MamdrError(
            f"{path} of the pinned version is gone: was the table vacuumed? Run build_examples, or keep versions longer"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise MamdrError(f"{path} cannot be read ({error}): run build_examples again") from None


def _locate(urls: Sequence[str]) -> tuple[Any, list[str]]:
    """A file system for some URLs, as Petastorm takes it, and their paths in it."""
    if urls[0].startswith(SCHEME):
        system = _StoreFileSystem(file_system(urlsplit(urls[0]).netloc))
        return system, [unquote(url.removeprefix(SCHEME)) for url in urls]
    with _QUIET, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        filesystem, paths = get_filesystem_and_path_or_paths([_file_url(url) for url in urls])
    return filesystem, paths


def _file_url(url: str) -> str:
    """The URL as Petastorm takes it: a local path's percent signs are Spark's, and Petastorm leaves them."""
    if url.startswith("file:"):
        return "file://" + unquote(urlsplit(url).path)
    return url
