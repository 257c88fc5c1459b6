"""Which rank owns which domain."""

import heapq

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_LARGE = 4
"""A domain of more than a rank's mean load divided by this is placed on its own."""


def place_domains(rows_n: Ints, ranks: int, positions_n: Ints | None = None) -> Ints:
    """Give each domain an owner: ranks have nearly equal rows, and small domains that lie together stay together.

    Large domains go first, longest processing time first on rows (Graham 1969). The others, in the order in which they
    stand in the files, are cut into one stretch a rank that fills it up: so a rank reads few row groups but its own.

    Args:
        rows_n: training rows by domain.
        ranks: world size W; with more ranks than domains some own none.
        positions_n: where each domain begins in the files; None: in the order of their indices.

    Returns:
        The rank of each domain, int64 [n]. The same input gives the same placement.
    """
    weight_n = np.maximum(rows_n, 1)  # an empty domain counts too, so that a rank is not given all of them
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
    """How much of an amount each rank takes so that the least loaded end level, float64 [W]."""
    ascending = np.sort(load_W)
    levels = (amount + ascending.cumsum()) / np.arange(1, len(load_W) + 1)  # if the first, the first two, ... take them
    room_W: NDArray[np.float64] = np.maximum(levels.min() - load_W, 0.0)
    return room_W
