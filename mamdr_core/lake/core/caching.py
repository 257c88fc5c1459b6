"""Frames that are computed once and used several times, released together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame
from pyspark.storagelevel import StorageLevel

Keep = Callable[[DataFrame], DataFrame]
"""Persists a frame in memory or on disk when it is first computed."""


@contextmanager
def kept_frames() -> Iterator[Keep]:
    """A function that keeps frames until the end of the block.

    Example:
        >>> with kept_frames() as keep:  # doctest: +SKIP
        ...     rows = keep(rows)
    """
    kept: list[DataFrame] = []

    def keep(frame: DataFrame) -> DataFrame:
        kept.append(frame.persist(StorageLevel.MEMORY_AND_DISK))
        return kept[-1]

    try:
        yield keep
    finally:
        for frame in reversed(kept):
            frame.unpersist()
