"""Tastes of the domains: unit vectors that mix a shared taste with per-domain tastes and may drift from day to day.

Shapes: D domains, K factors, r = `rank`.
"""

import math

import numpy as np

from mamdr_core.config.datasets import SyntheticSettings
from mamdr_core.datasets.counters import Singles, normal
from mamdr_core.datasets.orthonormal import multiply, orthonormal


def mixed_tastes(settings: SyntheticSettings, stream: str) -> Singles:
    """[D, K] or [days * D, K] unit vectors: the shared taste at conflict 0, per-domain tastes at 1."""
    shared = _drifting(settings, f"shared {stream}", 1, settings.factors)
    own = _own_tastes(settings, stream)
    mixed = _unit(math.sqrt(1 - settings.conflict) * shared + math.sqrt(settings.conflict) * own)
    return mixed.reshape(-1, settings.factors)


def _own_tastes(settings: SyntheticSettings, stream: str) -> Singles:
    """[1 or days, D, K] independent unit vectors; with a rank, all of them in a random r-dimensional subspace."""
    if not settings.rank:
        return _drifting(settings, f"own {stream}", settings.domains, settings.factors)
    directions = orthonormal(settings.seed, f"{stream} subspace", settings.factors, settings.rank)
    return multiply(_drifting(settings, f"own {stream}", settings.domains, settings.rank), directions.T)


def _drifting(settings: SyntheticSettings, stream: str, count: int, length: int) -> Singles:
    """[1, count, length] unit vectors, or [days, count, length] with cosine 1 - drift between consecutive days."""
    ids = np.arange(count)
    days = [_unit(normal(settings.seed, stream, ids, length))]
    keep = 1 - settings.drift
    for day in range(1, settings.days if settings.drift else 1):
        before = days[-1]
        new = normal(settings.seed, f"{stream} of day {day}", ids, length)
        across = _unit(new - (new * before).sum(-1, keepdims=True) * before)  # zero with a single factor
        days.append(_unit(keep * before + math.sqrt(1 - keep**2) * across))
    return np.stack(days)


def _unit(vectors: Singles) -> Singles:
    unit: Singles = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))
    return unit
