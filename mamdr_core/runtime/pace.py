"""Logs the progress of long loops at intervals: done, rate and remaining time."""

import logging
import sys
import threading
import time
from datetime import timedelta

logger = logging.getLogger(__name__)

EVERY = 5.0 if sys.stderr.isatty() else 30.0
"""Seconds between log lines, and before the first one; shorter at a terminal than in a log file."""


class ProgressLog:
    """Counts the progress of a loop, from any thread; short loops log nothing.

    Args:
        what: description of the loop.
        total: total count.
        unit: unit of the count.
    """

    def __init__(self, what: str, total: int, unit: str = "rows") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self._lock = threading.Lock()
        self._started = self._logged = time.perf_counter()

    def add(self, count: int) -> None:
        """Add to the count."""
        with self._lock:
            self.done += count
            now = time.perf_counter()
            if now - self._logged < EVERY or not self.done:
                return
            self._logged = now
            rate = self.done / (now - self._started)
            left = max(0, self.total - self.done) / rate
            logger.info(
                "%s: %s of %s %s (%s/s), about %s left", self.what, f"{self.done:,}", f"{self.total:,}", self.unit,
                f"{rate:,.0f}", format_duration(left),
            )  # fmt: skip


def format_duration(seconds: float) -> str:
    """Seconds as H:MM:SS."""
    return str(timedelta(seconds=round(seconds)))
