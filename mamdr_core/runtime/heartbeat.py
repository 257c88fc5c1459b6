"""Heartbeats: long loops call `beat`, and the watchdog of a rank observes the count (parallel/watch.py)."""

from collections.abc import Callable

count = 0
"""Number of heartbeats of this process."""
listener: Callable[[], None] | None = None
"""Called at every heartbeat, on its thread (training/profiling.py); None: no listener."""


def beat() -> None:
    """Signal progress; cheap enough for every step of a loop."""
    global count
    count += 1
    if listener is not None:
        listener()
