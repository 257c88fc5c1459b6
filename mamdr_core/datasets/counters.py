"""Random numbers as a function of (seed, stream, counter): any part of a log can be made anywhere, in any order.

Shapes: N counters, K numbers each.
"""

import numpy as np
from numpy.typing import NDArray

Counters = NDArray[np.int64]
Integers = NDArray[np.uint64]
Reals = NDArray[np.float64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFFFFFF)


def hash_counters(seed: int, stream: str, counters: Counters) -> Integers:
    """64 random bits a counter (SplitMix64, Steele et al. 2014).

    Args:
        seed: of the whole log.
        stream: names what is drawn; two streams are independent.
        counters: [N], e.g. row numbers.
    """
    start = np.zeros(1, dtype=np.uint64)
    for byte in f"{seed}/{stream}".encode():
        start = _mix(start * _STEP + np.uint64(byte + 1))
    return _mix(counters.astype(np.uint64) * _STEP + start)


def uniform(seed: int, stream: str, counters: Counters) -> Reals:
    """[N] numbers, uniform in [0, 1)."""
    return (hash_counters(seed, stream, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seed: int, stream: str, counters: Counters, count: int) -> Reals:
    """[N, K] numbers, N(0, 1), K = `count` a counter (Box-Muller)."""
    pairs = (count + 1) // 2
    wide = counters.astype(np.uint64)[:, None] * np.uint64(pairs) + np.arange(pairs, dtype=np.uint64)
    bits = hash_counters(seed, stream, wide.ravel().view(np.int64))
    radius = np.sqrt(-2.0 * np.log(((bits >> np.uint64(32)).astype(np.float64) + 1.0) * 2.0**-32))
    angle = (bits & _LOW).astype(np.float64) * (2.0 * np.pi * 2.0**-32)
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    numbers: Reals = both.reshape(len(counters), 2 * pairs)[:, :count]
    return numbers


def _mix(bits: Integers) -> Integers:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    mixed: Integers = bits ^ (bits >> np.uint64(31))
    return mixed
