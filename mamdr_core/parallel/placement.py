"""Which rank owns which domain."""

import heapq

import numpy as np
from numpy.typing import NDArray


def place_domains(rows_n: NDArray[np.int64], ranks: int) -> NDArray[np.int64]:
    """Give each domain an owner: longest processing time first on rows (Graham 1969).

    Args:
        rows_n: training rows by domain.
        ranks: world size W; with more ranks than domains some own none.

    Returns:
        The rank of each domain, int64 [n]. The same input gives the same placement.
    """
    owner_n = np.zeros(len(rows_n), dtype=np.int64)
    load = [(0, rank) for rank in range(ranks)]
    for domain in np.lexsort((np.arange(len(rows_n)), -rows_n)):
        rows, rank = heapq.heappop(load)
        owner_n[domain] = rank
        # An empty domain counts too, so that a rank is not given all of them.
        heapq.heappush(load, (rows + max(int(rows_n[domain]), 1), rank))
    return owner_n
