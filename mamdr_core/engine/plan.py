"""The round plan: which rows of which domain are visited in which round of an epoch.

It follows from domain sizes, seed and epoch alone, so every rank, and a restarted run, computes the same one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mamdr_core.engine.hashing import derive_seed, splitmix64

Ints = NDArray[np.int64]
_UNIT = 1 << 20
PART_ROWS = 1 << 22


@dataclass(frozen=True)
class RoundPlan:
    """Deals every row of every domain to exactly one round of each epoch.

    A domain of m rows is visited in v = min(R, max(1, m // smallest_slice)) rounds, evenly spread from a random start,
    with m / v rows each: large domains come once a round with a slice in proportion to their rows, tiny ones rarely but
    never with less than a smallest slice (unless that is all they have).

    Args:
        counts_n: training rows by domain.
        rounds: R, rounds an epoch; 1: full passes.
        smallest_slice: fewest rows of a visit.
        seed: of the run.
    """

    counts_n: Ints
    rounds: int
    smallest_slice: int
    seed: int

    def slices(self, epoch: int, number: int) -> tuple[Ints, Ints]:
        """Where each domain's slice of a round begins and ends within the domain's rows, both int64 [n].

        Args:
            epoch: from 0.
            number: round within the epoch, from 0.
        """
        m_n = self.counts_n
        visits_n = np.clip(m_n // max(self.smallest_slice, 1), 1, self.rounds)
        # Visit k of v happens in round floor((u + k) * R / v), u in [0, 1) drawn per domain and epoch; in integers, so
        # that no rounding can lose or double a visit.
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
    """A random order of the rows inside each domain, domains in ascending order: one segmented permutation.

    A row's place depends on the seed, its domain and its position in the domain alone, not on other domains' rows, so
    that placing domains on other ranks changes nothing.

    Args:
        offsets: where each domain's rows begin, int64 [n + 1].
        domains: each row's domain, ascending, int64 [N].
        seed: of the run and epoch.

    Returns:
        Positions, int64 [N].
    """
    within = (np.arange(len(domains)) - offsets[domains]).astype(np.uint64)
    start = np.uint64(derive_seed(seed, 0))
    keys = splitmix64(splitmix64(domains.astype(np.uint64) ^ start) ^ within)
    return order_within(domains, keys)


def order_within(domains: Ints, keys: NDArray[np.uint64]) -> Ints:
    """`np.lexsort((keys, domains))` of ascending domains, many times as fast: one integer a row is sorted in place.

    It holds the domain, as many bits of the key as there is room for, and the row; rows that agree in these bits, which
    are few, are sorted again.
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
    """`shuffled_within` over whole domains of about `PART_ROWS` rows at a time, so that memory is bounded.

    Args:
        offsets: where each domain's rows begin, int64 [n + 1].
        seed: of the run and epoch.

    Yields:
        The first row of a part, and the positions of all of its rows, shuffled inside each domain.
    """
    for first, last in domain_parts(offsets, PART_ROWS):
        start = int(offsets[first])
        domains = np.repeat(np.arange(first, last), np.diff(offsets[first : last + 1]))
        yield start, shuffled_within(offsets - start, domains, seed) + start


def domain_parts(offsets: Ints, rows: int) -> Iterator[tuple[int, int]]:
    """Consecutive domains, first and last + 1, that hold at most `rows` rows together, or one domain with more."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + rows, side="right")) - 1
        yield first, max(last, first + 1)
        first = max(last, first + 1)


def parts_in_step(offsets: Ints, rows: int, most: Callable[[int], int]) -> list[tuple[int, int]]:
    """`domain_parts`, and empty ones at the end, so that every rank has as many and may fetch rows in each.

    Args:
        offsets: where each domain's rows begin, int64 [n + 1].
        rows: of a part, at most.
        most: the largest over ranks of a number.
    """
    parts = list(domain_parts(offsets, rows))
    end = len(offsets) - 1
    return parts + [(end, end)] * (most(len(parts)) - len(parts))
