"""The round plan: which rows of each domain are visited in which round of an epoch.

It depends only on domain sizes, seed and epoch, so every rank and a resumed run compute the same plan.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mamdr_core.engine.hashing import derive_seed, splitmix64

Ints = NDArray[np.int64]
_UNIT = 1 << 20
PART_ROWS = 1 << 22
"""Maximum number of rows that are shuffled at a time, unless a domain has more."""


@dataclass(frozen=True)
class RoundPlan:
    """Assigns every row of every domain to exactly one round of each epoch.

    A domain of m rows is visited in v = min(R, max(1, m // smallest_slice)) rounds, evenly spaced after a random start,
    with m / v rows each. So large domains are visited in every round with a slice in proportion to their rows, and
    small ones in few rounds, with at least `smallest_slice` rows or all that they have.

    Args:
        counts_n: training rows by domain.
        rounds: R, rounds per epoch; 1: full passes.
        smallest_slice: minimum number of rows of a visit.
        seed: seed of the run.
    """

    counts_n: Ints
    rounds: int
    smallest_slice: int
    seed: int

    def slices(self, epoch: int, number: int) -> tuple[Ints, Ints]:
        """Start and end of each domain's slice of a round within the rows of the domain, both int64 [n].

        Args:
            epoch: from 0.
            number: round within the epoch, from 0.
        """
        m_n = self.counts_n
        visits_n = np.clip(m_n // max(self.smallest_slice, 1), 1, self.rounds)
        # Visit k of v is in round floor((u + k) * R / v), with u in [0, 1) drawn per domain and epoch. In integers:
        # rounding errors could drop or repeat a visit.
        u_n = (self._draw(epoch, 1) % np.uint64(_UNIT)).astype(np.int64)
        nearest_n = -((u_n * self.rounds - number * visits_n * _UNIT) // (self.rounds * _UNIT))
        happens_n = ((u_n + nearest_n * _UNIT) * self.rounds) // (visits_n * _UNIT) == number
        happens_n &= (nearest_n >= 0) & (nearest_n < visits_n)
        start_n = np.where(happens_n, nearest_n * m_n // visits_n, 0)
        stop_n = np.where(happens_n, (nearest_n + 1) * m_n // visits_n, 0)
        return start_n, stop_n

    def order(self, epoch: int, number: int) -> Ints:
        """All domains in the random order of a round (Alg. 1, line 3), int64 [n]."""
        return np.argsort(self._draw(epoch, 2 + number), kind="stable")

    def _draw(self, epoch: int, stream: int) -> NDArray[np.uint64]:
        start = np.uint64(derive_seed(self.seed, epoch, stream))
        return splitmix64(np.arange(len(self.counts_n), dtype=np.uint64) ^ start)


def shuffled_within(offsets: Ints, domains: Ints, seed: int) -> Ints:
    """A random permutation of the rows within each domain.

    The order of a domain's rows depends only on the seed and the domain, so it is the same on any rank.

    Args:
        offsets: first row of each domain, and the number of rows, int64 [n + 1].
        domains: domain of each row, ascending, int64 [N].
        seed: seed of the run and epoch.

    Returns:
        Positions, int64 [N].
    """
    within = (np.arange(len(domains)) - offsets[domains]).astype(np.uint64)
    start = np.uint64(derive_seed(seed, 0))
    keys = splitmix64(splitmix64(domains.astype(np.uint64) ^ start) ^ within)
    return order_within(domains, keys)


def order_within(domains: Ints, keys: NDArray[np.uint64]) -> Ints:
    """`np.lexsort((keys, domains))` for ascending domains, many times as fast: it sorts one integer per row.

    The integer consists of the domain, the upper bits of the key, and the row. The few rows that are equal in the
    first two are sorted again.
    """
    row_bits = np.uint64(len(domains).bit_length())
    first, last = (int(domains[place]) if len(domains) else 0 for place in (0, -1))
    key_bits = np.uint64(64 - int(row_bits) - (last - first).bit_length())
    packed = ((domains - first).astype(np.uint64) << key_bits) | (keys >> (np.uint64(64) - key_bits))
    packed = (packed << row_bits) | np.arange(len(domains), dtype=np.uint64)
    packed.sort()
    order: Ints = (packed & ((np.uint64(1) << row_bits) - np.uint64(1))).astype(np.int64)
    tied = np.diff(packed >> row_bits) == 0
    again = np.flatnonzero(np.append(tied, False) | np.insert(tied, 0, False)) if tied.any() else order[:0]
    rows = order[again]
    order[again] = rows[np.lexsort((keys[rows], domains[rows]))]
    return order


def shuffled_parts(offsets: Ints, seed: int) -> Iterator[tuple[int, Ints]]:
    """`shuffled_within` for consecutive domains of about `PART_ROWS` rows at a time, to bound memory.

    Args:
        offsets: first row of each domain, and the number of rows, int64 [n + 1].
        seed: seed of the run and epoch.

    Yields:
        The first row of a part, and the positions of its rows, shuffled within each domain.
    """
    for first, last in domain_parts(offsets, PART_ROWS):
        start = int(offsets[first])
        domains = np.repeat(np.arange(first, last), np.diff(offsets[first : last + 1]))
        yield start, shuffled_within(offsets - start, domains, seed) + start


def domain_parts(offsets: Ints, rows: int) -> Iterator[tuple[int, int]]:
    """Split domains into ranges (first, last + 1) of at most `rows` rows, or of one domain with more rows."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + rows, side="right")) - 1
        yield first, max(last, first + 1)
        first = max(last, first + 1)


def parts_in_step(offsets: Ints, rows: int, most: Callable[[int], int]) -> list[tuple[int, int]]:
    """`domain_parts`, followed by empty ranges, so that all ranks have the same number and can fetch rows in each.

    Args:
        offsets: first row of each domain, and the number of rows, int64 [n + 1].
        rows: maximum number of rows of a range.
        most: maximum of a number over ranks.
    """
    parts = list(domain_parts(offsets, rows))
    end = len(offsets) - 1
    return parts + [(end, end)] * (most(len(parts)) - len(parts))
