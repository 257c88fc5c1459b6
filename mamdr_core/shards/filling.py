"""Rows put in their places as they are read: sorted by domain and key, without a copy of the whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mamdr_core.engine.columns import Columns
from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
from mamdr_core.shards.arrays import Arrays
from mamdr_core.shards.ragged import Ragged, values_of
from schemas import SAMPLE_WEIGHT, weights_of

Ints = NDArray[np.int64]
Rows = slice | Ints
SHORT_RUN = 32
"""Runs of fewer rows on average are copied row by row."""


class ColumnsFiller:
    """Columns of counted sizes, filled in place, file by file; several threads may fill from a file each.

    Files are sorted by domain and key, so what is read is a few runs of rows, each of which goes where its domain's
    rows of the file continue. Only domains whose keys then do not ascend, those of several files above all, are sorted.

    Args:
        counts_n: rows that will come by domain, int64 [n].
        sizes: vocabulary size by id column.
        numeric: by numeric feature, mean and standard deviation.
        arrays: where the columns lie.
        has_weights: whether rows have weights.
        several: the bags and sequences, of which `sizes` has the sizes too.
        keep_keys: whether domains can be sorted by key at the end. If false, rows must arrive sorted: see `lost_keys`.

    Attributes:
        lost_keys: whether rows of a domain came in another order, and their keys were not kept.
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
        widths = {feature.name: feature.length for feature in several}
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
        self._unknown = rows == 0  # no true probability, or not of every row

    @property
    def reserved(self) -> bool:
        """Whether the opened files hold of every domain as many rows as were counted."""
        return np.array_equal(self._next_n, self._offsets[1:])

    def open_file(self, domains: NDArray[np.int32], rows: Ints) -> "FilePlaces":
        """Reserve the places of a file's rows; files are opened one after the other.

        Args:
            domains: whose rows are wanted, ascending, int32 [d].
            rows: how many of each the file holds, [d].
        """
        first = self._next_n[domains]
        self._unsorted_n[domains[first > self._offsets[domains]]] = True  # it continues another file's
        self._next_n[domains] += rows
        return FilePlaces(domains, first, first + rows)

    def add(self, places: "FilePlaces", batch: pa.RecordBatch) -> None:
        """Put rows of a file in their places, passing over those of other domains.

        Args:
            places: of the file.
            batch: the id columns, label, key, true_probability, sample weights if there are any, and the features.

        Raises:
            MamdrError: an index beyond its vocabulary.
        """
        domains = batch.column("domain").to_numpy(zero_copy_only=False)
        if (domains[1:] < domains[:-1]).any():  # not as build_examples writes it: files put together?
            batch = batch.take(pa.array(np.argsort(domains, kind="stable")))
        lists = [name for name in batch.schema.names if pa.types.is_list(batch.schema.field(name).type)]
        read = {
            name: values_of(batch.column(name)) if name in lists else batch.column(name).to_numpy(zero_copy_only=False)
            for name in batch.schema.names
        }
        for name, size in self._sizes.items():
            least = 0 if name == "domain" or name in lists else -1  # -1: unknown, which neither ever is
            if len(read[name]) and not least <= read[name].min() <= read[name].max() < size:
                raise MamdrError(f"examples have a {name} beyond its {size} values: run build_examples again")
        moves, unsorted = places.take(read["domain"], read["key"])
        self._unsorted_n[unsorted] = True
        if self._several:
            self._add_lists(batch, read, moves)
        # Column by column: what a column is made of stays in the core's cache until it is written.
        for name, column in self._ids.items():
            if name not in lists:
                _move_ids(read[name], column, moves)
        for place, (name, moments) in enumerate(self._numeric.items()):
            _move(standardise(read[name], *moments), self._standardised[:, place], moves)
        _move(read["label"], self._labels, moves)
        if self._keys is not None:
            _move(read["key"], self._keys, moves)
        elif len(unsorted):
            self.lost_keys = True
        if self._weights is not None:
            weights = read[SAMPLE_WEIGHT]
            _move(np.where(np.isnan(weights), 1, weights), self._weights, moves)  # null is 1
        probability = read["true_probability"]
        if np.isnan(probability.sum()) and any(np.isnan(probability[here]).any() for here, _ in moves):
            self._unknown = True
        if not self._unknown:
            _move(probability, self._probability, moves)

    def _add_lists(
        self, batch: pa.RecordBatch, read: Mapping[str, NDArray[Any]], moves: Sequence[tuple[Rows, Rows]]
    ) -> None:
        rows = np.full(len(batch), -1)
        for here, there in moves:
            rows[here] = np.arange(there.start, there.stop) if isinstance(there, slice) else there
        for feature in self._several:
            lists = Ragged(batch.column(feature.name), feature.length, newest=feature.kind == "sequence")
            lists.put(read[feature.name] + 1, self._ids[feature.name], rows)
            if feature.weights:
                lists.put(read[weights_of(feature.name)], self._bag_weights[feature.name], rows)

    def finish(self) -> Columns:
        """The columns; all files must be complete."""
        columns = [*self._ids.values(), *self._bag_weights.values(), self._standardised, self._labels]
        if not self._unknown:
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
            true_probability=None if self._unknown else torch.from_numpy(self._probability),
            weights=None if self._weights is None else torch.from_numpy(self._weights),
            bag_weights={name: torch.from_numpy(weights) for name, weights in self._bag_weights.items()},
        )


class FilePlaces:
    """Where the next rows of each domain of a file go.

    Args:
        domains: ascending, int32 [d].
        first: where the file's rows of each domain begin in the columns, [d].
        last: where they end, [d].
    """

    def __init__(self, domains: NDArray[np.int32], first: Ints, last: Ints) -> None:
        self._domains, self._first, self._last = domains, first, last
        self._next = first.copy()
        self._last_key = np.full(len(domains), np.iinfo(np.int64).min)

    @property
    def expected(self) -> int:
        """Rows that were counted."""
        return int((self._last - self._first).sum())

    @property
    def taken(self) -> int:
        """Rows that came, those beyond the counted ones included."""
        return int((self._next - self._first).sum())

    @property
    def complete(self) -> bool:
        """Whether of every domain as many rows came as were counted."""
        return np.array_equal(self._next, self._last)

    def take(self, domain: NDArray[np.int32], key: Ints) -> tuple[list[tuple[Rows, Rows]], NDArray[np.int32]]:
        """Take places for the next rows.

        Args:
            domain: of each row, ascending, [B].
            key: of each row, [B].

        Returns:
            Which rows go where, and the domains whose keys do not ascend.
        """
        same = domain[1:] == domain[:-1]
        edges = np.flatnonzero(~same) + 1
        starts, stops = np.concatenate([[0], edges]), np.append(edges, len(domain))
        places = np.minimum(np.searchsorted(self._domains, domain[starts]), len(self._domains) - 1)
        mine = self._domains[places] == domain[starts]
        starts, stops, places = starts[mine], stops[mine], places[mine]
        there = self._next[places]
        self._next[places] += stops - starts
        within = domain[1:][same & (key[1:] < key[:-1])]
        unsorted = [
            within[np.isin(within, self._domains)],
            self._domains[places[key[starts] < self._last_key[places]]],
        ]
        self._last_key[places] = key[stops - 1]
        fits = self._next[places] <= self._last[places]
        return _pair(starts[fits], stops[fits], there[fits]), np.concatenate(unsorted)


def _pair(starts: Ints, stops: Ints, there: Ints) -> list[tuple[Rows, Rows]]:
    """Runs as pairs of slices from and to, neighbours put together; one pair of positions where runs are short."""
    if not len(starts):
        return []
    shift = there - starts
    first = np.append(True, (starts[1:] != stops[:-1]) | (shift[1:] != shift[:-1]))
    starts, shift, stops = starts[first], shift[first], stops[np.append(first[1:], True)]
    lengths = stops - starts
    if len(starts) * SHORT_RUN > lengths.sum():
        here = np.arange(lengths.sum()) + np.repeat(starts - (lengths.cumsum() - lengths), lengths)
        return [(here, here + np.repeat(shift, lengths))]
    return [
        (slice(start, stop), slice(start + by, stop + by))
        for start, stop, by in zip(starts.tolist(), stops.tolist(), shift.tolist(), strict=True)
    ]


def _move(values: NDArray[Any], column: NDArray[Any], moves: Sequence[tuple[Rows, Rows]]) -> None:
    """Put values of a batch in their places of a column."""
    for here, there in moves:
        column[there] = values[here]


def _move_ids(indices: NDArray[Any], column: NDArray[np.int32], moves: Sequence[tuple[Rows, Rows]]) -> None:
    """Put indices of a batch in their places of a column, 1 higher, without a copy between the two."""
    for here, there in moves:
        if isinstance(there, slice):
            np.add(indices[here], 1, out=column[there], casting="same_kind")
        else:
            column[there] = indices[here] + 1


def standardise(values: NDArray[Any], mean: float, deviation: float) -> NDArray[np.float64]:
    """Mean 0 and deviation 1 over the train split, missing values at the mean."""
    made = np.subtract(values, mean, dtype=np.float64)
    made /= deviation
    if not np.isfinite(values.sum()):
        made[~np.isfinite(made)] = 0.0
    return made
