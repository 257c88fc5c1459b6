"""Signs of progress: loops that may take long give them, and whoever watches the process looks (parallel/watch.py)."""

count = 0
"""Signs given by this process so far."""


def beat() -> None:
    """Say that work goes on; costs next to nothing."""
    global count
    count += 1
