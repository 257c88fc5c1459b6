"""Deterministic randomness that depends on keys, not on call order, placement or world size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

INCREMENT = 0x9E3779B97F4A7C15
"""Distance between two states of SplitMix64: 2^64 over the golden ratio."""
_MASK = (1 << 64) - 1


def mix64(state: Any) -> Any:
    """Output of SplitMix64 for a state (Steele et al. 2014): one Python integer, or uint64 elementwise.

    A seed takes a few integers, for which numpy needs 20 times as long.
    """
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> shift)) * multiplier
        if isinstance(state, int):  # unlike arrays, Python integers do not overflow
            state &= _MASK
    return state ^ (state >> 31)


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several integers, e.g. (seed, epoch, round, domain)."""
    value = 0
    for part in parts:
        value = mix64(((value ^ part) + INCREMENT) & _MASK)
    return value >> 1


def step_keys(seeds_G: Sequence[int], steps: int) -> NDArray[np.int32]:
    """The dropout keys of the first steps of trajectories, int32 [steps, G].

    Args:
        seeds_G: seed of each trajectory, below 2^64.
        steps: number of steps.
    """
    start_G = splitmix64(np.array(seeds_G, dtype=np.uint64))
    keys_SG = splitmix64(start_G[None] ^ np.arange(steps, dtype=np.uint64)[:, None])
    return (keys_SG >> np.uint64(32)).astype(np.uint32).view(np.int32)


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The first number of SplitMix64 with each of some seeds, [...]."""
    mixed: NDArray[np.uint64] = mix64(values + np.uint64(INCREMENT))
    return mixed
