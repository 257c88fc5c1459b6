"""Writes rows to their final positions as they are read, sorted by domain and key, without a second copy of all rows.

Shape suffixes: n domains, d domains of a file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mamdr_core.config.features import Feature
from mamdr_core.engine.columns import Columns
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.arrays import Arrays
from mamdr_core.shards.ragged import Ragged, values_of
from schemas import SAMPLE_WEIGHT, weights_of

Ints = NDArray[np.int64]
Rows = slice | Ints
SHORT_RUN = 32
"""Runs with fewer rows on average are copied by index instead of by slices."""


class ColumnsFiller:
    """Columns of known sizes, filled in place file by file; several threads may each fill from one file.

    Files are sorted by domain and key, so a batch consists of a few runs of rows, which are appended to the rows of
    their domain and file. Only domains whose keys are then not ascending are sorted, mostly those of several files.

    Args:
        counts_n: number of rows by domain, int64 [n].
        sizes: vocabulary size by id column, bags and sequences included.
        numeric: by numeric feature, mean and standard deviation.
        keep_keys: whether keys are kept, to sort domains at the end; if false, rows must be read in order of keys.

    Attributes:
        lost_keys: whether rows of a domain were not in order of keys, and keys were not kept.
    """

    def __init__(
        self,
        counts_n: Ints,
        sizes: Mapping[str, int],
        numeric: Mapping[str, tuple[float, float]],
        arrays: Arrays,
        has_weights: bool = False,
        several: Sequence[Feature] = (),
        keep_keys: bool = True,
    ) -> None:
        rows = int(counts_n.sum())
        self._widths = widths = {feature.name: feature.length for feature in several}
        self._sizes, self._numeric, self._several = sizes, numeric, several
        self._offsets = np.concatenate([[0], np.cumsum(counts_n)])
        self._next_n = self._offsets[:-1].copy()
        self._unsorted_n = np.zeros(len(counts_n), dtype=np.bool_)
        self._ids = {name: arrays.empty((rows, widths[name]) if name in widths else rows, np.int32) for name in sizes}
        self._bag_weights = {f.name: arrays.empty((rows, f.length), np.float32) for f in several if f.weights}
        self._standardised = arrays.empty((rows, len(numeric)), np.float32)
        self._labels = arrays.empty(rows, np.float32)
        self._keys = arrays.empty(rows, np.int64) if keep_keys else None
        self.lost_keys = False
        self._probability = arrays.empty(rows, np.float64)
        self._weights = arrays.empty(rows, np.float32) if has_weights else None
        self._lacks_probability = rows == 0  # some rows have no true probability

    @property
    def reserved(self) -> bool:
        """Whether the opened files have as many rows of each domain as `counts_n`."""
        return np.array_equal(self._next_n, self._offsets[1:])

    def open_file(self, domains: NDArray[np.int32], rows: Ints) -> "FilePlaces":
        """Reserve positions for a file's rows; files must be opened one after another.

        Args:
            domains: the rank's domains in the file, ascending, int32 [d].
            rows: number of rows of each in the file, [d].
        """
        first = self._next_n[domains]
        self._unsorted_n[domains[first > self._offsets[domains]]] = True  # another file has rows of the domain
        self._next_n[domains] += rows
        return FilePlaces(domains, first, first + rows)

    def add(self, places: "FilePlaces", batch: pa.RecordBatch) -> int:
        """Write rows of a file to their positions; rows of other ranks' domains are skipped.

        Args:
            batch: the id columns, label, key, true_probability, sample weights if there are any, and the features.

        Returns:
            Number of rows of the rank's domains.

        Raises:
            MamdrError: an index is not below the vocabulary's size.
        """
        domain = _read(batch, "domain")
        starts = np.append(0, np.flatnonzero(domain[1:] != domain[:-1]) + 1)
        if (domain[starts[1:]] < domain[starts[:-1]]).any():  # not written by build_examples, e.g. compacted
            return self.add(places, batch.take(pa.array(np.argsort(domain, kind="stable"))))
        self._check("domain", domain[starts], 0)
        key = _read(batch, "key")
        taken, moves, unsorted = places.take(domain[starts], starts, key)
        self._unsorted_n[unsorted] = True
        # Column by column, so that a column's values are in the core's cache when they are checked and written.
        if self._keys is not None:
            _move(key, self._keys, moves)
        elif len(unsorted):
            self.lost_keys = True
        for name, column in self._ids.items():
            if name not in self._widths:
                indices = _read(batch, name)
                if name != "domain":
                    self._check(name, indices, -1)  # -1: unknown
                _move_ids(indices, column, moves)
        if self._several:
            self._add_lists(batch, moves)
        if self._numeric:
            scaled_BF = np.empty((len(batch), len(self._numeric)), np.float32)
            for place, (name, moments) in enumerate(self._numeric.items()):
                scaled_BF[:, place] = standardise(_read(batch, name), *moments)
            _move(scaled_BF, self._standardised, moves)
        _move(_read(batch, "label"), self._labels, moves)
        if self._weights is not None:
            weights = _read(batch, SAMPLE_WEIGHT)
            _move(np.where(np.isnan(weights), 1, weights), self._weights, moves)  # null is 1
        if not self._lacks_probability:
            probability = _read(batch, "true_probability")
            if np.isnan(probability.sum()) and any(np.isnan(probability[source]).any() for source, _ in moves):
                self._lacks_probability = True
            else:
                _move(probability, self._probability, moves)
        return taken

    def _check(self, name: str, indices: NDArray[Any], least: int) -> None:
        size = self._sizes[name]
        if len(indices) and not least <= indices.min() <= indices.max() < size:
            raise MamdrError(
                f"examples have an index of {name} beyond its vocabulary of {size} values: run build_examples again"
            )

    def _add_lists(self, batch: pa.RecordBatch, moves: Sequence[tuple[Rows, Rows]]) -> None:
        rows = np.full(len(batch), -1)
        for source, target in moves:
            rows[source] = np.arange(target.start, target.stop) if isinstance(target, slice) else target
        for feature in self._several:
            indices = values_of(batch.column(feature.name))
            self._check(feature.name, indices, 0)  # lists have no unknown ids
            lists = Ragged(batch.column(feature.name), feature.length, newest=feature.kind == "sequence")
            lists.put(indices + 1, self._ids[feature.name], rows)
            if feature.weights:
                lists.put(values_of(batch.column(weights_of(feature.name))), self._bag_weights[feature.name], rows)

    def finish(self) -> Columns:
        """The columns, sorted by domain and key; all files must be complete."""
        columns = [*self._ids.values(), *self._bag_weights.values(), self._standardised, self._labels]
        if not self._lacks_probability:
            columns.append(self._probability)
        if self._weights is not None:
            columns.append(self._weights)
        if self._keys is not None:
            for domain in np.flatnonzero(self._unsorted_n):
                rows = slice(*self._offsets[domain : domain + 2])
                order = np.argsort(self._keys[rows], kind="stable")
                for column in columns:
                    column[rows] = column[rows][order]
        return Columns(
            ids={name: torch.from_numpy(column) for name, column in self._ids.items()},
            numeric=torch.from_numpy(self._standardised),
            labels=torch.from_numpy(self._labels),
            offsets=torch.from_numpy(self._offsets),
            true_probability=None if self._lacks_probability else torch.from_numpy(self._probability),
            weights=None if self._weights is None else torch.from_numpy(self._weights),
            bag_weights={name: torch.from_numpy(weights) for name, weights in self._bag_weights.items()},
        )


class FilePlaces:
    """The positions in the columns of a file's rows.

    Args:
        domains: ascending, int32 [d].
        first: position of the file's first row of each domain, [d].
        last: end of the file's rows of each domain, [d].
    """

    def __init__(self, domains: NDArray[np.int32], first: Ints, last: Ints) -> None:
        self._domains, self._first, self._last = domains, first, last
        self._next = first.copy()
        self._last_key = np.full(len(domains), np.iinfo(np.int64).min)

    @property
    def expected(self) -> int:
        """Number of rows that were counted when the version was pinned."""
        return int((self._last - self._first).sum())

    @property
    def taken(self) -> int:
        """Number of rows that were read, unexpected ones included."""
        return int((self._next - self._first).sum())

    @property
    def complete(self) -> bool:
        """Whether the expected number of rows of each domain was read."""
        return np.array_equal(self._next, self._last)

    def take(
        self, domains: NDArray[np.int32], starts: Ints, key: Ints
    ) -> tuple[int, list[tuple[Rows, Rows]], NDArray[np.int32]]:
        """Assign positions to the next rows of the file, a batch of r runs of rows of one domain.

        Args:
            domains: domain of each run, ascending, [r].
            starts: first row of each run, [r].
            key: key of each row, [B].

        Returns:
            Number of rows of the rank's domains, pairs of rows of the batch and their positions, and the domains whose
            keys are not ascending.
        """
        stops = np.append(starts[1:], len(key))
        lower = np.flatnonzero(key[1:] < key[:-1]) + 1  # rows with a lower key than the row before
        run_of_lower = np.searchsorted(starts, lower, side="right") - 1
        unsorted = np.zeros(len(starts), np.bool_)
        unsorted[run_of_lower[starts[run_of_lower] != lower]] = True  # the first row of a run follows another domain
        places = np.minimum(np.searchsorted(self._domains, domains), len(self._domains) - 1)
        mine = self._domains[places] == domains
        starts, stops, places = starts[mine], stops[mine], places[mine]
        unsorted = unsorted[mine] | (key[starts] < self._last_key[places])
        self._last_key[places] = key[stops - 1]
        targets = self._next[places]
        self._next[places] += stops - starts
        fits = self._next[places] <= self._last[places]
        moves = _moves_of(starts[fits], stops[fits], targets[fits])
        return int((stops - starts).sum()), moves, self._domains[places[unsorted]]


def _moves_of(starts: Ints, stops: Ints, targets: Ints) -> list[tuple[Rows, Rows]]:
    """Pairs of source and target slices, with adjacent runs merged, or one pair of index arrays for short runs."""
    if not len(starts):
        return []
    shift = targets - starts
    first = np.append(True, (starts[1:] != stops[:-1]) | (shift[1:] != shift[:-1]))
    starts, shift, stops = starts[first], shift[first], stops[np.append(first[1:], True)]
    lengths = stops - starts
    if len(starts) * SHORT_RUN > lengths.sum():
        sources = np.arange(lengths.sum()) + np.repeat(starts - (lengths.cumsum() - lengths), lengths)
        return [(sources, sources + np.repeat(shift, lengths))]
    return [
        (slice(start, stop), slice(start + by, stop + by))
        for start, stop, by in zip(starts.tolist(), stops.tolist(), shift.tolist(), strict=True)
    ]


def _move(values: NDArray[Any], column: NDArray[Any], moves: Sequence[tuple[Rows, Rows]]) -> None:
    """Copy values of a batch to their positions in a column."""
    for source, target in moves:
        column[target] = values[source]


def _move_ids(indices: NDArray[Any], column: NDArray[np.int32], moves: Sequence[tuple[Rows, Rows]]) -> None:
    """Copy indices of a batch, increased by 1, to their positions in a column, without a temporary array for slices."""
    for source, target in moves:
        if isinstance(target, slice):
            np.add(indices[source], 1, out=column[target], casting="same_kind")
        else:
            column[target] = indices[source] + 1


def _read(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    """A column without lists as an array, without a copy if no value is null."""
    values: NDArray[Any] = batch.column(name).to_numpy(zero_copy_only=False)
    return values


def standardise(values: NDArray[Any], mean: float, deviation: float) -> NDArray[np.float64]:
    """Scale values by the train split's moments to mean 0 and deviation 1; missing and infinite values become 0."""
    scaled = values.astype(np.float64)
    scaled -= mean
    scaled /= deviation
    if not np.isfinite(values.sum()):
        scaled[~np.isfinite(scaled)] = 0.0
    return scaled
