"""Packs domains into shards by numbers of rows, longest processing time first (Graham 1969), on the driver."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Packing:
    """Number of shards, and the shards of each domain; a large domain has several."""

    count: int
    shards: dict[int, tuple[int, ...]]


LARGEST = 1.1
"""Target for the rows of the largest shard, relative to the mean."""
_HALVINGS = 5


def pack_domains(rows: Mapping[int, int], target: int, count: int = 0) -> Packing:
    """Assign domains, in parts of at most a shard, to the shard with the fewest rows, largest parts first.

    While the largest shard has more than `LARGEST` times the mean, parts are halved, down to 1/32 of a shard.

    Args:
        rows: number of rows by domain index.
        target: rows a shard where `count` is 0.
        count: number of shards; 0: from `target`.

    Example:
        >>> pack_domains({0: 10, 1: 6, 2: 4}, target=10).shards
        {0: (0,), 1: (1,), 2: (1,)}
    """
    total = sum(rows.values())
    shards = count or max(1, -(-total // target))
    limit = max(1, -(-total // shards))
    for _ in range(_HALVINGS + 1):
        placed, loads = _place(rows, shards, limit)
        if max(loads) * shards <= LARGEST * total:
            break
        limit = max(1, limit // 2)
    return Packing(shards, {domain: tuple(of_domain) for domain, of_domain in sorted(placed.items())})


def pack_more(count: int, held_n: Mapping[int, Mapping[int, int]], more_n: Mapping[int, int], target: int) -> Packing:
    """Assign new rows: a domain keeps its shards and gets additional ones as it grows; shards are added as needed.

    Args:
        count: current number of shards.
        held_n: current rows by domain and shard.
        more_n: new rows by domain.
        target: rows of a shard, and of a domain in a shard, above which shards are added.

    Example:
        >>> pack_more(2, {0: {0: 10}, 1: {1: 6}}, {0: 2, 2: 5}, 100).shards
        {0: (0,), 1: (1,), 2: (1,)}
    """
    shards = {domain: list(of_domain) for domain, of_domain in held_n.items()}
    rows_n = {domain: sum(of_domain.values()) for domain, of_domain in held_n.items()}
    loads = [0] * count
    for of_domain in held_n.values():
        for shard, rows in of_domain.items():
            loads[shard] += rows
    total = sum(loads) + sum(more_n.values())
    loads += [0] * (-(-total // target) - count)
    heap = [(load, shard) for shard, load in enumerate(loads)]
    heapq.heapify(heap)
    for domain, rows in sorted(more_n.items(), key=lambda item: (-item[1], item[0])):
        mine = shards.setdefault(domain, [])
        wanted = min(len(loads), max(1, -(-(rows_n.get(domain, 0) + rows) // target)))
        passed = []
        while len(mine) < wanted:
            load, shard = heapq.heappop(heap)
            if shard in mine:
                passed.append((load, shard))
            else:
                mine.append(shard)
                passed.append((load + rows // wanted, shard))
        for entry in passed:
            heapq.heappush(heap, entry)
    return Packing(len(loads), {domain: tuple(sorted(of_domain)) for domain, of_domain in sorted(shards.items())})


def _place(rows: Mapping[int, int], shards: int, limit: int) -> tuple[dict[int, list[int]], list[float]]:
    """Place parts of at most `limit` rows, largest first; returns shards by domain, and rows by shard."""
    parts: list[tuple[float, int]] = []
    for domain, size in rows.items():
        pieces = min(shards, max(1, -(-size // limit)))
        parts.extend((-size / pieces, domain) for _ in range(pieces))
    loads = [(0.0, shard) for shard in range(shards)]
    placed: dict[int, list[int]] = {}
    for negative_size, domain in sorted(parts):
        load, shard = heapq.heappop(loads)
        placed.setdefault(domain, []).append(shard)
        heapq.heappush(loads, (load - negative_size, shard))
    return placed, [load for load, _ in loads]
