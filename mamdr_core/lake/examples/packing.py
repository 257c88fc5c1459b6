"""Packing domains into shards: longest processing time first, on row counts; plain Python over domains."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Packing:
    """Where domains go: `shards[d]` are the shards of domain d, several for a domain that is spread over them."""

    count: int
    shards: dict[int, tuple[int, ...]]


LARGEST = 1.1
"""Rows of the largest shard that are aimed at, in means."""
_HALVINGS = 5


def pack_domains(rows: Mapping[int, int], target: int, count: int = 0) -> Packing:
    """Assign each domain, or each part of a domain larger than a shard, to the least loaded shard, largest first.

    Where a few domains of nearly a shard's size leave shards uneven, they are divided too: into halves, then quarters,
    down to 1/32 of a shard, until the largest shard holds at most `LARGEST` times the mean.

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
    """Assign rows that come: a domain stays in its shards and gets more as it outgrows them; new shards take the rest.

    Args:
        count: number of shards so far.
        held_n: rows by domain and shard.
        more_n: rows that come by domain.
        target: rows of a shard, and of a domain in a shard, from which on there are more.

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
    """Longest processing time first, in parts of at most `limit` rows: shards by domain, rows by shard."""
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
