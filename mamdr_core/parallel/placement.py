"""Placement of domains on ranks."""

import heapq

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_LARGE = 4
"""A domain larger than the mean load of a rank divided by this value is placed individually."""


def place_domains(rows_n: Ints, ranks: int, positions_n: Ints | None = None) -> Ints:
    """Assign each domain to an owner, with nearly equal rows per rank and adjacent small domains on the same rank.

    Large domains are placed first, largest first on the least loaded rank (LPT, Graham 1969). The others are split into
    one contiguous range per rank, in the order of the files, so that a rank reads few row groups of other ranks.

    Args:
        rows_n: training rows by domain.
        ranks: world size W; with more ranks than domains, some ranks own none.
        positions_n: first position of each domain in the files; None: in the order of indices.

    Returns:
        The rank of each domain, int64 [n]. Equal inputs give equal placements.
    """
    weight_n = np.maximum(rows_n, 1)  # empty domains count as well, so that they do not all go to one rank
    large_n = weight_n * ranks * _LARGE > weight_n.sum()
    owner_n = np.zeros(len(rows_n), dtype=np.int64)
    load = [(0, rank) for rank in range(ranks)]
    for domain in np.lexsort((np.arange(len(rows_n)), -rows_n)):
        if large_n[domain]:
            rows, rank = heapq.heappop(load)
            owner_n[domain] = rank
            heapq.heappush(load, (rows + int(weight_n[domain]), rank))
    small = np.flatnonzero(~large_n)
    if positions_n is not None:
        small = small[np.argsort(positions_n[small], kind="stable")]
    load_W = np.array([rows for rows, _ in sorted(load, key=lambda item: item[1])], dtype=np.float64)
    room_W = room_below_level(load_W, float(weight_n[small].sum()))
    middle = weight_n[small].cumsum() - weight_n[small] / 2
    owner_n[small] = np.minimum(np.searchsorted(room_W.cumsum(), middle), ranks - 1)
    return owner_n


def room_below_level(load_W: NDArray[np.float64], amount: float) -> NDArray[np.float64]:
    """Distribute an amount over ranks so that the least loaded ones reach a common level, float64 [W]."""
    ascending = np.sort(load_W)
    # The level if the least loaded rank, the two least loaded ranks, ... share the amount.
    levels = (amount + ascending.cumsum()) / np.arange(1, len(load_W) + 1)
    room_W: NDArray[np.float64] = np.maximum(levels.min() - load_W, 0.0)
    return room_W
