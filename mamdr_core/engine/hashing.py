"""Deterministic randomness that depends on keys, not on call order, placement or world size."""

import numpy as np
from numpy.typing import NDArray


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several integers, e.g. (seed, epoch, round, domain)."""
    value = np.zeros(1, dtype=np.uint64)
    for part in parts:
        value = splitmix64(value ^ np.uint64(part & 0xFFFFFFFFFFFFFFFF))
    return int(value[0] >> np.uint64(1))


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Steele et al.'s 64-bit mixer (SplitMix, 2014), elementwise."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
