"""Copies lists of different lengths to rows of one width."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mamdr_core.config.features import Feature
from schemas import UNKNOWN_INDEX, weights_of

Ints = NDArray[np.int64]


CHUNK = 1 << 18
"""Values that are padded together: few enough to stay in a core's cache until they are copied to their rows."""


class Ragged:
    """Pads and truncates lists to one width.

    Args:
        lists: a list column, [B]; null is an empty list.
        newest: whether the last values of a longer list are kept instead of the first.
    """

    def __init__(self, lists: pa.ListArray, width: int, newest: bool) -> None:
        lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        self._size, self._width = int(lengths.sum()), width
        self._kept = np.minimum(lengths, width)
        self._chosen = None
        if (lengths > width).any():
            ends = lengths.cumsum()
            first = ends - self._kept if newest else ends - lengths
            kept_before = self._kept.cumsum() - self._kept
            self._chosen = np.arange(self._kept.sum()) + np.repeat(first - kept_before, self._kept)

    def put(self, values: NDArray[Any], into: NDArray[Any], rows: Ints) -> None:
        """Write the lists' values to rows of `into`, padded with zeros at the end.

        Args:
            values: values of all lists, concatenated.
            into: array [N, width].
            rows: the row of each list, [B]; -1: the list is skipped.
        """
        assert len(values) == self._size, "a row's ids and weights differ in length"
        values = values if self._chosen is None else values[self._chosen]
        edges = np.concatenate([[0], self._kept.cumsum()])
        step = max(CHUNK // self._width, 1)
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            padded = np.zeros((len(chunk), self._width), into.dtype)
            is_value = np.arange(self._width) < self._kept[start : start + step, None]
            padded[is_value] = values[edges[start] : edges[start + len(chunk)]]
            written = chunk >= 0
            if written.all():
                into[chunk] = padded
            else:
                into[chunk[written]] = padded[written]


def values_of(lists: pa.ListArray) -> NDArray[Any]:
    """The values of all lists, concatenated."""
    values: NDArray[Any] = lists.flatten().to_numpy(zero_copy_only=False)
    return values


def pad_lists(batch: pa.RecordBatch, several: Sequence[Feature]) -> dict[str, NDArray[Any]]:
    """Bags and sequences of a batch as arrays [B, length]: indices, padded with UNKNOWN_INDEX, and weights.

    Args:
        batch: contains lists of indices, and lists of the weights of bags with weights.
    """
    rows, arrays = np.arange(len(batch)), dict[str, NDArray[Any]]()
    for feature in several:
        lists = Ragged(batch.column(feature.name), feature.length, newest=feature.kind == "sequence")
        shape = len(batch), feature.length
        ids = np.empty(shape, np.int32)
        lists.put(values_of(batch.column(feature.name)) - UNKNOWN_INDEX, ids, rows)
        arrays[feature.name] = ids + np.int32(UNKNOWN_INDEX)
        if feature.weights:
            name = weights_of(feature.name)
            arrays[name] = np.empty(shape, np.float32)
            lists.put(values_of(batch.column(name)), arrays[name], rows)
    return arrays
