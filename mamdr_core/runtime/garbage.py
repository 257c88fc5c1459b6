"""Python's garbage collection while a process makes many small steps."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLDS = 20_000, 20, 50
"""Of gc.set_threshold, whose defaults are 700, 10, 10: higher ones, and no collection at all, were equally fast."""


@contextmanager
def rare_collection() -> Iterator[None]:
    """Collect cyclic garbage seldom, and without scanning the objects that exist now.

    By default Python scans new objects after every 700, and sometimes all of them, such as those of a process that has
    read its rows: a twentieth of the time of steps of 30 rows. Objects that are in no cycle are freed at once, as
    always. In other threads than the main one this does nothing, since the collector is that of the whole process.
    The end of the block unfreezes all objects of the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
