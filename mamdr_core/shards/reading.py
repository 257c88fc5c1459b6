"""Reading Parquet files through Petastorm into numpy columns; the one module that knows Petastorm."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from schemas import Table

with warnings.catch_warnings():
    # Petastorm's own import of deprecated names; nothing that a user can mend.
    warnings.simplefilter("ignore")
    from petastorm import make_batch_reader
    from petastorm.unischema import Unischema, UnischemaField

# Petastorm notes at every reader that it did not write the files itself.
logging.getLogger("petastorm").setLevel(logging.WARNING)

_NUMPY_TYPES = {
    "string": np.str_,
    "int": np.int32,
    "bigint": np.int64,
    "float": np.float32,
    "double": np.float64,
}


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


def read_columns(urls: Sequence[str], table: Table, columns: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    """Read columns of some files, all row groups, in the files' order.

    Args:
        urls: Parquet files of one pinned version.
        table: their declaration.
        columns: names of columns.

    Returns:
        By column, [N] (array columns: [N, D]).

    Raises:
        FileNotFoundError: a file of the pinned version is gone (vacuumed?).
    """
    schema = unischema(table, columns)
    if not urls:
        return {name: np.zeros(0, dtype=field.numpy_dtype) for name, field in schema.fields.items()}
    parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in columns}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it prints when a reader closes
        warnings.filterwarnings("ignore", category=FutureWarning)  # pyarrow calls Petastorm's use of ParquetDataset old
        with make_batch_reader(
            [_file_url(url) for url in urls],
            schema_fields=list(schema.fields.values()),
            # Decoded in this thread: row groups keep their order, and no queue can end early or grow.
            reader_pool_type="dummy",
            shuffle_row_groups=False,
        ) as reader:
            for batch in reader:
                for name in columns:
                    parts[name].append(np.asarray(getattr(batch, name)))
    return {name: np.concatenate(part) if part else np.zeros(0) for name, part in parts.items()}


def _file_url(url: str) -> str:
    """The URL as Petastorm takes it: a local path's percent signs are Spark's, and Petastorm leaves them."""
    if url.startswith("file:"):
        return "file://" + unquote(urlsplit(url).path)
    return url
