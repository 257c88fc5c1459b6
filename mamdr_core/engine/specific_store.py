"""theta_i of all domains of a rank: read and written in groups; the best values are kept without copying."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from mamdr_core.engine.parameters import Change, Rows
from mamdr_core.engine.vector_buffers import VectorBuffer

T = TypeVar("T")

READ_DOMAINS = 64
"""Number of domains per group for mappings without `read_groups`."""
GROUP_BYTES = {"cpu": 1 << 26, "cuda": 1 << 30}
"""Bytes of the dense parameters of a group, approximately; on a GPU enough for stacks of some hundred domains."""


@runtime_checkable
class ReadsGroups(Protocol):
    """A mapping that reads theta_i in groups faster than one by one."""

    def read_groups(self, domains: Sequence[int]) -> Iterator[Mapping[int, Change]]:
        """Read theta_i in groups, in any order; a group is valid until the next one is requested."""


def read_groups(specific: Mapping[int, Change], domains: Sequence[int]) -> Iterator[Mapping[int, Change]]:
    """Read theta_i in groups, in any order; a group is valid until the next one is requested.

    Args:
        specific: theta_i by domain index.
        domains: distinct domains in `specific`.
    """
    if isinstance(specific, ReadsGroups):
        yield from specific.read_groups(domains)
        return
    for first in range(0, len(domains), READ_DOMAINS):
        yield {domain: specific[domain] for domain in domains[first : first + READ_DOMAINS]}


def group_size(device: str, vector_bytes: int) -> int:
    """Number of domains of a group on a type of device."""
    return max(1, GROUP_BYTES[device] // max(1, vector_bytes))


class SpecificValues(Mapping[int, Change]):
    """theta_i by domain index, read on the CPU one domain at a time; zero without an entry.

    Args:
        buffer: storage of the dense parameters.
        like: a vector [P] of their type.
        entry: number of the entry of each domain that has one.
        rows: embedding rows by domain and table.
    """

    def __init__(
        self, buffer: VectorBuffer, like: Tensor, entry: Mapping[int, int], rows: Mapping[int, dict[str, Rows]]
    ) -> None:
        self.buffer, self._like = buffer, like
        self._entry, self._rows = dict(entry), dict(rows)

    @property
    def vector_bytes(self) -> int:
        """Bytes of the dense parameters of a domain."""
        return self._like.nbytes

    def __getitem__(self, domain: int) -> Change:
        """A copy of theta_i of a domain."""
        rows, dense = dict(self._rows[domain]), torch.zeros_like(self._like, device="cpu")
        if domain in self._entry:
            self.buffer.read(self._entry[domain], dense)
        return Change(dense, rows)

    def __iter__(self) -> Iterator[int]:
        """The domains, in ascending order."""
        return iter(sorted(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, domain: object) -> bool:
        return domain in self._rows


class SpecificStore(SpecificValues):
    """theta_i by domain index, zero until it is first written.

    Dense parameters are stored in entries of a buffer, embedding rows in memory. Writing a domain overwrites its entry,
    unless it contains the best values (`keep`) or values that a checkpoint is still writing (`hold`), so neither needs
    a copy. A domain uses at most two entries, and two more while a checkpoint is written.

    Args:
        domains: domains of the rank.
        buffer: storage of the dense parameters.
        like: a vector [P] of their type, on the device on which they are used.

    Example:
        >>> from mamdr_core.engine.vector_buffers import MemoryBuffer
        >>> store = SpecificStore([3, 5], MemoryBuffer(torch.zeros(2)), torch.zeros(2))
        >>> for group in store.groups([3, 5]):
        ...     group[3].move(Change(torch.ones(2)), 0.5)
        >>> store[3].dense
        tensor([0.5000, 0.5000])
    """

    def __init__(self, domains: Iterable[int], buffer: VectorBuffer, like: Tensor) -> None:
        super().__init__(buffer, like, {}, {domain: {} for domain in domains})
        self._kept_rows: dict[int, dict[str, Rows]] = {}
        self._kept_entry: dict[int, int] = {}
        self._held: set[int] = set()
        self._free: list[int] = []
        self._used = 0
        self._room = 0
        self._group = group_size(like.device.type, like.nbytes)

    def groups(self, domains: Sequence[int], changes: bool = True) -> Iterator[dict[int, Change]]:
        """Read theta_i in groups, in the given order; a group is valid until the next one is requested.

        While the caller uses a group, the next one is read and the previous one written, unless theta_i is in the
        memory of the device.

        Args:
            domains: distinct domains.
            changes: write a group after the caller has used it.
        """
        parts = [domains[first : first + self._group] for first in range(0, len(domains), self._group)]
        in_background = self.buffer.where == "file" or self._like.device.type != "cpu"
        tensors = [self._like.new_empty(0)] * 3  # one in use, one being read, one being written

        def read(number: int) -> dict[int, Change]:
            size = len(parts[number])
            if len(tensors[number % 3]) < size:
                tensors[number % 3] = self._like.new_empty(size, len(self._like))
            return self._read(parts[number], tensors[number % 3][:size])

        with ThreadPoolExecutor(1) as pool:

            def start(call: Callable[..., T], *arguments: object) -> "Future[T]":
                future = pool.submit(call, *arguments)
                if not in_background:
                    wait([future])
                return future

            coming = start(read, 0) if parts else None
            writing: Future[None] | None = None
            for number in range(len(parts)):
                assert coming is not None
                group = coming.result()
                if number + 1 < len(parts):
                    coming = start(read, number + 1)
                yield group
                if writing:
                    writing.result()
                if changes:
                    writing = start(self._write, group)
            if writing:
                writing.result()

    def read_groups(self, domains: Sequence[int]) -> Iterator[dict[int, Change]]:
        """Read theta_i in groups without writing them."""
        return self.groups(domains, changes=False)

    def keep(self) -> None:
        """Keep the current values as the best."""
        self._kept_entry, self._kept_rows = dict(self._entry), dict(self._rows)
        self._reclaim()

    def restore(self) -> None:
        """Return to the best values."""
        self._entry, self._rows = dict(self._kept_entry), dict(self._kept_rows)
        self._reclaim()

    def now(self) -> SpecificValues:
        """The current values, valid until the next write."""
        return SpecificValues(self.buffer, self._like, self._entry, self._rows)

    def hold(self) -> tuple[SpecificValues, SpecificValues]:
        """The best values, and the current ones of domains where they differ; neither changes until `release`."""
        best = SpecificValues(self.buffer, self._like, self._kept_entry, self._kept_rows)
        changed = {
            domain: rows
            for domain, rows in self._rows.items()
            if self._entry.get(domain) != self._kept_entry.get(domain) or rows is not self._kept_rows.get(domain)
        }
        self._held = {*self._entry.values(), *self._kept_entry.values()}
        return best, SpecificValues(self.buffer, self._like, self._entry, changed)

    def load(self, best: Mapping[int, Change], now: Mapping[int, Change]) -> None:
        """Load the values from `hold` for the domains of the store."""
        for domain in best:
            if domain in self:
                self[domain] = best[domain]
        self.keep()
        for domain in now:
            if domain in self:
                self[domain] = now[domain]

    def release(self) -> None:
        """Allow values from `hold` to be overwritten."""
        self._held = set()
        self._reclaim()

    def _reclaim(self) -> None:
        used = {*self._entry.values(), *self._kept_entry.values(), *self._held}
        self._free = [entry for entry in range(self._used) if entry not in used]

    @property
    def dense_bytes(self) -> int:
        """Bytes of the largest number of entries in use so far, including those of best values and checkpoints."""
        return self._used * self._like.nbytes

    @property
    def row_bytes(self) -> int:
        """Bytes of the current embedding rows, including ids."""
        rows = [own for tables in self._rows.values() for own in tables.values()]
        return sum(own.ids.nbytes + own.values.nbytes for own in rows)

    def __getitem__(self, domain: int) -> Change:
        """A copy of theta_i of a domain, on the device."""
        return self._read([domain], self._like.new_empty(1, len(self._like)))[domain]

    def __setitem__(self, domain: int, change: Change) -> None:
        """Replace theta_i of a domain of the store."""
        self._write({domain: change})

    def _read(self, domains: Sequence[int], out: Tensor) -> dict[int, Change]:
        on_gpu = out.device.type != "cpu"
        here = torch.empty(out.shape, dtype=out.dtype, pin_memory=True) if on_gpu else out
        for domain, row_P in zip(domains, here, strict=True):
            if domain in self._entry:
                self.buffer.read(self._entry[domain], row_P)
            else:
                row_P.zero_()
        if on_gpu:
            out.copy_(here, non_blocking=True)
        return {domain: Change(out[row], dict(self._rows[domain])) for row, domain in enumerate(domains)}

    def _write(self, group: Mapping[int, Change]) -> None:
        for domain, change in group.items():
            if domain not in self._rows:
                raise KeyError(domain)
            entry = self._entry.get(domain)
            if entry is None or entry == self._kept_entry.get(domain) or entry in self._held:
                entry = self._new_entry()
            self.buffer.write(entry, change.dense.cpu())
            self._entry[domain], self._rows[domain] = entry, change.rows

    def _new_entry(self) -> int:
        if self._free:
            return self._free.pop()
        if self._used == self._room:
            self._room = self.buffer.grow()
        self._used += 1
        return self._used - 1
