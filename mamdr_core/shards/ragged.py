"""Lists of a row each, of any length, put into rows of one width."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mamdr_core.features import Feature
from schemas import UNKNOWN_INDEX, weights_of

Ints = NDArray[np.int64]


class Ragged:
    """Where the values of some lists go in rows of a width; of a longer list the first stay, or the newest.

    Args:
        lists: a list column, null as an empty list; [B].
        width: of a row.
        newest: whether the last values of a longer list stay, not the first.
    """

    def __init__(self, lists: pa.ListArray, width: int, newest: bool) -> None:
        lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        ends = lengths.cumsum()
        self._size = int(lengths.sum())
        self._rows = np.repeat(np.arange(len(lengths)), lengths)
        left_out = np.maximum(lengths - width, 0) if newest else np.zeros_like(lengths)
        self._places = np.arange(self._size) - np.repeat(ends - lengths + left_out, lengths)
        fits = (self._places >= 0) & (self._places < width)
        self._chosen = None if fits.all() else np.flatnonzero(fits)

    def put(self, values: NDArray[Any], into: NDArray[Any], rows: Ints) -> None:
        """Put the lists' values into rows of `into`, and zeros behind them.

        Args:
            values: of all lists, one after the other, [all].
            into: array [N, width].
            rows: the row of each list, [B]; -1: it is left out.
        """
        assert len(values) == self._size, "lists that belong together differ in length"
        at, places = rows[self._rows], self._places
        if self._chosen is not None:
            at, places, values = at[self._chosen], places[self._chosen], values[self._chosen]
        into[rows[rows >= 0]] = 0
        wanted = at >= 0
        if wanted.all():
            into[at, places] = values
        else:
            into[at[wanted], places[wanted]] = values[wanted]


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
