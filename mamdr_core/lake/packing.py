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
