"""Counter-based random numbers: a function of (seed, stream, counter), so rows can be generated in any order.

Shapes: N counters, K numbers each.
"""

from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mamdr_core.engine.hashing import INCREMENT, mix64

Integers = NDArray[np.uint64]
Ids = NDArray[np.int64]
Counters = Ids | Integers
Reals = NDArray[np.float64]
Singles = NDArray[np.float32]

_STEP = np.uint64(INCREMENT)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def hash_counters(seed: int, stream: str, counters: Counters) -> Integers:
    """64 random bits per counter (SplitMix64, Steele et al. 2014).

    Args:
        stream: name of a stream; streams are independent.
        counters: [N], e.g. row numbers.
    """
    start = np.zeros(1, dtype=np.uint64)
    for byte in f"{seed}/{stream}".encode():
        start = mix64(start * _STEP + np.uint64(byte + 1))
    bits: Integers = mix64(counters.astype(np.uint64) * _STEP + start)
    return bits


def uniform(seed: int, stream: str, counters: Counters, count: int) -> Reals:
    """[K, N] uniform numbers in [0, 1) with steps of 2^-32, K = `count` per counter."""
    words = [hash_counters(seed, f"{stream} {word}", counters) for word in range(-(-count // 2))]
    halves = [half for word in words for half in (word >> _HALF, word & _LOW)]
    numbers: Reals = np.stack(halves[:count]) * 2.0**-32
    return numbers


def normal(seed: int, stream: str, counters: Counters, count: int) -> Singles:
    """[N, K] numbers from N(0, 1), K = `count` per counter: quantiles at 16 bits, 8 times as fast as Box-Muller."""
    words = -(-count // 4)
    wide = counters.astype(np.uint64)[:, None] * np.uint64(words) + np.arange(words, dtype=np.uint64)
    bits = hash_counters(seed, stream, wide.ravel())
    numbers: Singles = np.take(_quantiles(), bits.astype("<u8", copy=False).view("<u2"))
    return numbers.reshape(len(counters), 4 * words)[:, :count]


@cache
def _quantiles() -> Singles:
    """[65536] quantiles of N(0, 1) at the midpoints of equal steps, scaled to variance 1."""
    upper = [NormalDist().inv_cdf(0.5 + (step + 0.5) / 65_536) for step in range(32_768)]
    quantiles = np.concatenate([-np.array(upper[::-1]), upper])
    scaled: Singles = (quantiles / quantiles.std()).astype(np.float32)
    return scaled
