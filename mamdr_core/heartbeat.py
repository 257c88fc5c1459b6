"""Signs of progress: loops that may take long give them, and whoever watches the process looks (parallel/watch.py)."""

from collections.abc import Callable

count = 0
"""Signs given by this process so far."""
listener: Callable[[], None] | None = None
"""Called at every sign, on the thread that gives it (training/profiling.py); None: nothing is."""


def beat() -> None:
    """Say that work goes on; costs next to nothing."""
    global count
    count += 1
    if listener is not None:
        listener()
