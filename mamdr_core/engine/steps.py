"""The steps of a stack of trajectories, and the rows that they read, padded to common shapes.

Step s of a stack consists of one batch of each trajectory that has a step s. These are its first G_s trajectories.
Batches are padded to B_s rows with rows of weight zero.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.columns import Columns, Visit

ROWS_MULTIPLE = 8
"""Padded rows are a multiple of this, to fill vector registers, and since compilers specialise shapes of one row."""


@dataclass(frozen=True)
class Batch:
    """A batch of one trajectory.

    Attributes:
        trajectory: position of the trajectory in its stack.
        visit: the batch's visit.
        number: position of the visit in the trajectory.
        place: position of the batch in the visit.
        rows: slice of the visit.
    """

    trajectory: int
    visit: Visit
    number: int
    place: int
    rows: slice

    def __len__(self) -> int:
        size: int = self.rows.stop - self.rows.start
        return size

    @property
    def group_sizes(self) -> Tensor:
        """Number of rows of each domain, int64 [G], see `Visit.groups`; without groups all rows are in one."""
        return self.visit.groups[self.place] if self.visit.groups else torch.tensor([len(self)])

    @property
    def group_count(self) -> int:
        """Number of domains that the batch contains as groups, at least 1; see `group_sizes`."""
        return len(self.visit.groups[self.place]) if self.visit.groups else 1


@dataclass(frozen=True)
class Steps:
    """Consecutive steps of a stack.

    Attributes:
        batches: for each step, a batch of each trajectory that has the step.
        rows_S: padded rows B_s of each step.
    """

    batches: list[list[Batch]]
    rows_S: list[int]

    @property
    def mixes_domains(self) -> bool:
        """Whether batches contain several domains, in groups; then the stack has a single trajectory."""
        return any(batch.visit.groups for batches in self.batches for batch in batches)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def sizes(self) -> list[int]:
        """Number of padded rows G_s * B_s of each step."""
        return [trajectories * rows for trajectories, rows in self.shapes]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Trajectories G_s and padded rows B_s of each step."""
        return [(len(batches), rows) for batches, rows in zip(self.batches, self.rows_S, strict=True)]

    def flat(self) -> list[Batch]:
        """All batches in the order of steps."""
        return list(chain.from_iterable(self.batches))

    def begins(self) -> NDArray[np.int64]:
        """Position of the first row of each batch of `flat()` among all padded rows, int64."""
        starts = np.cumsum([0, *self.sizes])
        first = [
            start + trajectory * rows
            for start, rows, batches in zip(starts, self.rows_S, self.batches, strict=False)
            for trajectory in range(len(batches))
        ]
        return np.array(first, dtype=np.int64)

    def segments(self, most_rows: int) -> Iterator["Steps"]:
        """Split the steps into segments of at most `most_rows` padded rows, or of one step with more rows."""
        first = 0
        ends = np.cumsum([0, *self.sizes])
        while first < len(self):
            last = int(np.searchsorted(ends, ends[first] + most_rows, side="right")) - 1
            last = max(last, first + 1)
            yield Steps(self.batches[first:last], self.rows_S[first:last])
            first = last


@dataclass(frozen=True)
class ReadPlaces:
    """Positions at which a segment of steps reads tables: one for each row, or one for each domain of a batch.

    Positions are numbered over all padded rows (or groups) of the segment.

    Attributes:
        sizes: number of padded positions of each step.
        begin_N: first position of the batch of each read, int64 [N].
        place_N: position of each read, int64 [N].
        width_N: number of positions of its batch, int64 [N].
        step_N: its step, int64 [N].
        span: range of these N reads among all reads of the stack.
    """

    sizes: list[int]
    begin_N: Tensor
    place_N: Tensor
    width_N: Tensor
    step_N: Tensor
    span: slice

    def of_fields(self, count: int) -> Tensor:
        """Positions of `count` fields, int64 [count, N]: each batch has all its positions once for each field."""
        number_F1 = torch.arange(count, device=self.place_N.device)[:, None]
        return self.begin_N * count + number_F1 * self.width_N + (self.place_N - self.begin_N)


def lay_steps(visits: Sequence[Sequence[Visit]], batch_size: int) -> Steps:
    """The steps of trajectories, in descending order of their number of steps."""
    own = [
        [
            Batch(trajectory, visit, number, place, rows)
            for number, visit in enumerate(visits_of_one)
            for place, rows in enumerate(visit.batches(batch_size))
        ]
        for trajectory, visits_of_one in enumerate(visits)
    ]
    steps = [[batch for batch in batches if batch is not None] for batches in zip_longest(*own)]
    return Steps(steps, [-(-max(map(len, batches)) // ROWS_MULTIPLE) * ROWS_MULTIPLE for batches in steps])


class RowReader:
    """Reads columns at the rows of batches, in the order of the batches.

    Args:
        batches: batches, possibly of several `Columns`.
        device: device of the results.
    """

    def __init__(self, batches: Sequence[Batch], device: torch.device) -> None:
        self.lengths = [len(batch) for batch in batches]
        self._batches, self._device = batches, device
        self._as_domain = [-1 if batch.visit.as_domain is None else batch.visit.as_domain for batch in batches]
        by_source: dict[int, list[int]] = {}
        for number, batch in enumerate(batches):
            by_source.setdefault(id(batch.visit.columns), []).append(number)
        starts = np.cumsum([0, *self.lengths])
        self._sources: list[tuple[Columns, Tensor, Tensor | None]] = []
        for numbers in by_source.values():
            columns = batches[numbers[0]].visit.columns
            rows = torch.cat([batches[n].visit.rows[batches[n].rows] for n in numbers])
            places = None  # a single source has all rows, in order
            if len(by_source) > 1:
                places = torch.from_numpy(ranges(starts[numbers], np.array(self.lengths)[numbers])).to(device)
            self._sources.append((columns, rows, places))

    @cached_property
    def groups(self) -> list[Tensor]:
        """See `Batch.group_sizes`; only tables per domain need them."""
        return [batch.group_sizes for batch in self._batches]

    def read(self, column: Callable[[Columns], Tensor]) -> Tensor:
        """Values of the column that `column` selects, [N, ...] on the device."""
        parts = [(_pinned(column(columns)[rows], self._device), places) for columns, rows, places in self._sources]
        if parts[0][1] is None:
            return parts[0][0]
        whole = parts[0][0].new_empty(sum(self.lengths), *parts[0][0].shape[1:])
        for values, places in parts:
            whole[places] = values
        return whole

    def ids(self, column: str) -> Tensor:
        """Indices of an id column, int64 [N], or [N, L] for a column of several ids."""
        if not self.lengths:  # without batches there are no columns
            return torch.zeros(0, dtype=torch.long, device=self._device)
        ids_N = self.read(lambda columns: columns.ids[column]).long()
        if column == "domain" and max(self._as_domain) >= 0:
            shown_N = torch.from_numpy(np.repeat(self._as_domain, self.lengths)).to(self._device)
            ids_N = torch.where(shown_N >= 0, shown_N + 1, ids_N)
        return ids_N

    def bag_weights(self, bag: str) -> Tensor | None:
        """The weights of the ids of a bag, float32 [N, L]; None without weights or rows."""
        if not self._sources or any(bag not in columns.bag_weights for columns, _, _ in self._sources):
            return None
        return self.read(lambda columns: columns.bag_weights[bag])

    def weights(self, bag: str) -> Tensor:
        """The weights of the ids of a bag or sequence, float32 [N, L]; by default 1, and 0 for padding."""
        given = self.bag_weights(bag)
        return (self.read(lambda columns: columns.ids[bag]) > 0).float() if given is None else given

    def first_ids(self, column: str) -> Tensor:
        """Index of the first row of each group in an id column, int64 [groups]."""
        sizes = torch.cat([torch.zeros(0, dtype=torch.long), *self.groups])
        return self.ids(column)[(sizes.cumsum(0) - sizes).to(self._device)]


def _pinned(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; from host memory through pinned pages, so that this thread does not wait."""
    if values.device.type != "cpu" or device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


def ranges(starts: Sequence[int] | NDArray[np.int64], lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate the ranges start, start + 1, ..., start + length - 1, int64."""
    lengths = np.asarray(lengths, dtype=np.int64)
    ends = lengths.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    ranges: NDArray[np.int64] = np.arange(total) + np.repeat(
        np.asarray(starts, dtype=np.int64) - ends + lengths, lengths
    )
    return ranges
