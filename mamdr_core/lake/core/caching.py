"""Frames that are computed once and used several times, released together."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

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
    with ExitStack() as kept:

        def keep(frame: DataFrame) -> DataFrame:
            persisted = frame.persist(StorageLevel.MEMORY_AND_DISK)
            kept.callback(persisted.unpersist)
            return persisted

        yield keep
