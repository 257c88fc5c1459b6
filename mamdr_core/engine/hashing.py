"""Deterministic randomness that depends on keys, not on call order, placement or world size."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several integers, e.g. (seed, epoch, round, domain)."""
    value = 0
    for part in parts:  # splitmix64 in Python's integers: a trajectory needs a few, and numpy takes 20 times as long
        value = ((value ^ part) + 0x9E3779B97F4A7C15) & _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        value ^= value >> 31
    return value >> 1


def step_keys(seeds_G: Sequence[int], steps: int) -> NDArray[np.int32]:
    """The dropout keys of the first steps of trajectories, int32 [steps, G].

    Args:
        seeds_G: a seed of each trajectory, below 2^64.
        steps: how many.
    """
    start_G = splitmix64(np.array(seeds_G, dtype=np.uint64))
    keys_SG = splitmix64(start_G[None] ^ np.arange(steps, dtype=np.uint64)[:, None])
    return (keys_SG >> np.uint64(32)).astype(np.uint32).view(np.int32)


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Steele et al.'s 64-bit mixer (SplitMix, 2014), elementwise."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
