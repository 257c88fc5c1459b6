"""A line in the log now and then about how far a long loop is: done, rate and time left."""

import logging
import sys
import threading
import time
from datetime import timedelta

logger = logging.getLogger(__name__)

EVERY = 5.0 if sys.stderr.isatty() else 30.0
"""Seconds between lines, and before the first one: people at a terminal want more of them than a log's readers."""


class Pace:
    """Counts what a loop has done, from any of its threads; short loops say nothing.

    Args:
        what: is being done.
        total: how much there is.
        unit: of what.
    """

    def __init__(self, what: str, total: int, unit: str = "rows") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self._lock = threading.Lock()
        self._started = self._said = time.perf_counter()

    def add(self, count: int) -> None:
        """So much more is done."""
        with self._lock:
            self.done += count
            now = time.perf_counter()
            if now - self._said < EVERY or not self.done:
                return
            self._said = now
            rate = self.done / (now - self._started)
            left = max(0, self.total - self.done) / rate
            logger.info(
                "%s: %s of %s %s (%s/s), about %s left", self.what, f"{self.done:,}", f"{self.total:,}", self.unit,
                f"{rate:,.0f}", clock(left),
            )  # fmt: skip


def clock(seconds: float) -> str:
    """Seconds as H:MM:SS."""
    return str(timedelta(seconds=round(seconds)))
