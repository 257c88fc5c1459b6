"""Wall time of a job by phase."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any


class Clock:
    """Measures the seconds of each phase, and of the whole job with its earlier attempts.

    Args:
        mark: takes the name of a phase and opens a context that marks it in a profile; None: phases are not marked.

    Attributes:
        seconds: seconds by phase.
    """

    def __init__(self, mark: Callable[[str], AbstractContextManager[Any]] | None = None) -> None:
        self._mark: Callable[[str], AbstractContextManager[Any]] = mark or nullcontext
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    def add_attempt(self, seconds: float) -> None:
        """Add the seconds of an earlier attempt to the total."""
        self._started -= seconds

    @property
    def passed(self) -> float:
        """Total seconds so far."""
        return time.perf_counter() - self._started

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a phase."""
        started = time.perf_counter()
        try:
            with self._mark(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
