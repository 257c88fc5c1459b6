"""Pseudo-random walks that visit every number of a range once, as Spark columns."""

from functools import lru_cache

from pyspark.sql import Column
from pyspark.sql import functions as F

from mamdr_core.lake.core.constants import constants
from mamdr_core.lake.core.hashing import hash64

_STEPS = 256
_LARGEST_INT = 2**31


def walk(seed: int, *who: Column, size: Column, length: Column) -> Column:
    """The first `length` <= `size` numbers of a walk through 0..size-1, array<bigint>.

    start + t * step (mod size), with a prime step larger than any size, visits every number once.

    Args:
        seed: decides start and step together with `who`.
        who: hashes that identify the walk.
        size: size of the range, below 2^31.
        length: number of visited numbers, at least 1.
    """
    step = F.get(constants(prime_steps()), F.pmod(hash64("step", seed, *who), F.lit(_STEPS)).cast("int")).cast("long")
    start = F.pmod(hash64("start", seed, *who), size)
    straight = F.sequence(start, start + (length - 1) * step, step)
    return F.transform(straight, lambda position: F.pmod(position, size))


@lru_cache(maxsize=1)
def prime_steps() -> tuple[int, ...]:
    """The largest primes below 2^31: each is coprime to any smaller number of items."""
    primes: list[int] = []
    candidate = _LARGEST_INT - 1
    while len(primes) < _STEPS:
        if _is_prime(candidate):
            primes.append(candidate)
        candidate -= 2
    return tuple(primes)


def _is_prime(number: int) -> bool:
    """Miller-Rabin, exact for odd numbers from 9 to 3.2e9 with these bases."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        if all(pow(power, 2**turn, number) != number - 1 for turn in range(1, twos)):
            return False
    return True
