"""Lists of a row each, of any length, put into rows of one width."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mamdr_core.features import Feature
from schemas import UNKNOWN_INDEX, weights_of

Ints = NDArray[np.int64]


CHUNK = 1 << 18
"""Values that are laid out at a time: they stay in a core's cache until they are copied to their rows."""


class Ragged:
    """Where the values of some lists go in rows of a width; of a longer list the first stay, or the newest.

    Args:
        lists: a list column, null as an empty list; [B].
        width: of a row.
        newest: whether the last values of a longer list stay, not the first.
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
        """Put the lists' values into rows of `into`, and zeros behind them.

        Args:
            values: of all lists, one after the other, [all].
            into: array [N, width].
            rows: the row of each list, [B]; -1: it is left out.
        """
        assert len(values) == self._size, "lists that belong together differ in length"
        values = values if self._chosen is None else values[self._chosen]
        edges = np.concatenate([[0], self._kept.cumsum()])
        step = max(CHUNK // self._width, 1)
        for start in range(0, len(rows), step):
            there = rows[start : start + step]
            laid = np.zeros((len(there), self._width), into.dtype)
            is_held = np.arange(self._width) < self._kept[start : start + step, None]
            laid[is_held] = values[edges[start] : edges[start + len(there)]]
            wanted = there >= 0
            if wanted.all():
                into[there] = laid
            else:
                into[there[wanted]] = laid[wanted]


def values_of(lists: pa.ListArray) -> NDArray[Any]:
    """The values of all lists, one after the other."""
    values: NDArray[Any] = lists.flatten().to_numpy(zero_copy_only=False)
    return values


def pad_lists(batch: pa.RecordBatch, several: Sequence[Feature]) -> dict[str, NDArray[Any]]:
    """Bags and sequences of a batch as arrays [B, length]: indices, UNKNOWN_INDEX behind them, and weights.

    Args:
        batch: has them as lists of indices, and the weights of bags that have some.
        several: bags and sequences.
    """
    rows, made = np.arange(len(batch)), dict[str, NDArray[Any]]()
    for feature in several:
        lists = Ragged(batch.column(feature.name), feature.length, newest=feature.kind == "sequence")
        shape = len(batch), feature.length
        ids = np.empty(shape, np.int32)
        lists.put(values_of(batch.column(feature.name)) - UNKNOWN_INDEX, ids, rows)
        made[feature.name] = ids + np.int32(UNKNOWN_INDEX)
        if feature.weights:
            name = weights_of(feature.name)
            made[name] = np.empty(shape, np.float32)
            lists.put(values_of(batch.column(name)), made[name], rows)
    return made
