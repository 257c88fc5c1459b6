"""Reads row groups through Petastorm's batch reader; the only module that imports Petastorm."""

import logging
import queue
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs

from mamdr_core.shards.reading import RowGroupRun, locate, read_run
from schemas import DeclaredTable

with warnings.catch_warnings():
    # Petastorm imports deprecated names, which users cannot fix.
    warnings.simplefilter("ignore")
    from petastorm.arrow_reader_worker import ArrowReaderWorker
    from petastorm.reader import Reader
    from petastorm.unischema import Unischema, UnischemaField
    from petastorm.workers_pool import EmptyResultError
    from pyarrow.filesystem import FileSystem

# Petastorm logs for each reader that the files lack Petastorm's metadata.
logging.getLogger("petastorm").setLevel(logging.WARNING)

_NUMPY_TYPES = {
    "string": np.str_,
    "int": np.int32,
    "bigint": np.int64,
    "float": np.float32,
    "double": np.float64,
    "date": np.datetime64,
}


def unischema(table: DeclaredTable, columns: Sequence[str]) -> Unischema:
    """The Petastorm schema of some columns of a declared table.

    Raises:
        KeyError: a column is not declared.
    """
    fields = []
    for name in columns:
        column = table.column(name)
        kind = _NUMPY_TYPES[column.type.removeprefix("array<").removesuffix(">")]
        shape = (None,) if column.type.startswith("array<") else ()
        fields.append(UnischemaField(name, kind, shape, nullable=column.nullable))
    return Unischema(table.name, fields)


def read_runs(
    runs: Sequence[RowGroupRun], table: DeclaredTable, columns: Sequence[str]
) -> Iterator[Iterator[pa.RecordBatch]]:
    """Yield the batches of each run, in the given order; the thread that iterates over them reads them.

    Args:
        runs: at least one; all files must be local, or all in one bucket.
    """
    with _RunReader(runs, unischema(table, columns)) as reader:
        yield from reader


class _RunReader(Reader):  # type: ignore[misc]  # petastorm has no types
    """The reader of `make_batch_reader`, for selected runs of row groups, each returned as Arrow record batches.

    `make_batch_reader` has no argument for row groups, and its selectors need an index that only Petastorm writes. One
    work item stands for a whole run, so that a file is opened once and its small row groups share a batch.
    """

    def __init__(self, runs: Sequence[RowGroupRun], schema: Unischema) -> None:
        located = {run.url: locate(run.url) for run in runs}
        self._chosen = [(located[run.url][1], run.numbers[0]) for run in runs]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)  # pyarrow's legacy ParquetDataset is deprecated
            super().__init__(
                _PinnedFiles(located[runs[0].url][0]),
                [path for _, path in located.values()],
                schema_fields=list(schema.fields.values()),
                worker_class=_BatchWorker,
                reader_pool=_RunPool(runs),
                shuffle_row_groups=False,
                is_batched_reader=True,
            )

    def _filter_row_groups(self, dataset: Any, row_groups: Sequence[Any], *rest: Any) -> tuple[list[int], None]:
        index = {(piece.path, piece.row_group): number for number, piece in enumerate(row_groups)}
        return [index[chosen] for chosen in self._chosen], None

    def cleanup_cache(self) -> None:
        """Do nothing: there is no cache, and Petastorm would print to stdout."""


class _BatchWorker(ArrowReaderWorker):  # type: ignore[misc]  # petastorm has no types
    """Petastorm's worker, without its copy of the whole row group and its conversion to pandas."""

    @staticmethod
    def new_results_queue_reader() -> "_Results":
        return _Results()

    def process(self, piece_index: int, worker_predicate: None, shuffle_row_drop_partition: tuple[int, int]) -> None:
        piece = self._split_pieces[piece_index]
        self.publish_func(lambda run: read_run(self._filesystem.system, piece.path, run, self._schema.fields))


class _Results:
    batched_output = True

    def read_next(self, workers_pool: "_RunPool", schema: Unischema, ngram: None) -> Iterator[pa.RecordBatch]:
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _RunPool:
    """A worker pool for Petastorm without threads, which loses no row group.

    Petastorm's own pools end when their queue is empty and all items were queued. They check the two conditions one
    after the other, and lose items that are queued in between. They also sleep while they wait.

    Args:
        runs: the run of each work item.
    """

    def __init__(self, runs: Sequence[RowGroupRun]) -> None:
        self.workers_count = len(runs)  # Petastorm queues some items for each worker, so its ventilator never waits
        self.diagnostics: dict[str, Any] = {}
        self._runs = iter(runs)
        self._items: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._published: list[Callable[[RowGroupRun], Iterator[pa.RecordBatch]]] = []

    def start(self, worker_class: Any, worker_args: Any, ventilator: Any) -> None:
        self._worker = worker_class(0, self._published.append, worker_args)
        self._ventilator = ventilator
        ventilator.start()

    def ventilate(self, **item: Any) -> None:
        self._items.put(item)

    def get_results(self) -> Iterator[pa.RecordBatch]:
        run = next(self._runs, None)
        if run is None:
            raise EmptyResultError
        self._worker.process(**self._items.get())
        self._ventilator.processed_item()
        return self._published.pop()(run)

    def stop(self) -> None:
        self._ventilator.stop()

    def join(self) -> None:
        """Do nothing: there are no threads."""


class _PinnedFiles(FileSystem):  # type: ignore[misc]  # pyarrow has no types
    """A file system with pyarrow's legacy interface, which Petastorm uses.

    Petastorm accesses only files of a pinned version; a missing one is an error when it is opened.
    """

    def __init__(self, system: pyarrow.fs.FileSystem) -> None:
        self.system = system

    def open(self, path: str, mode: str = "rb") -> pa.NativeFile:
        return self.system.open_input_file(path)

    def isfile(self, path: str) -> bool:
        return True

    def isdir(self, path: str) -> bool:
        return False
