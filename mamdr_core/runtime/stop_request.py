"""Requests to stop training, which a process checks after each round."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mamdr_core.runtime.object_store import AnyPath, StorePath

_LOOK_EVERY, _LOOK_IN_STORE_EVERY = 1.0, 5.0
"""Seconds between two checks of the file and the parent process; a check of an object store is slower."""
_STARTED_BY_JVM = "PYSPARK_GATEWAY_PORT" in os.environ
_PARENT = os.getppid()


class StopRequest:
    """A request to stop: by SIGTERM, by a file, or because the parent process has ended (spark-submit was killed).

    Args:
        file: a file that requests the stop while it exists; None: this rank does not check a file.

    Attributes:
        reason: source of the request; empty: there is none.
    """

    def __init__(self, file: AnyPath | None = None) -> None:
        self.reason = ""
        self._file = file
        self._every = _LOOK_IN_STORE_EVERY if isinstance(file, StorePath) else _LOOK_EVERY
        self._looked = time.monotonic()

    def is_set(self) -> bool:
        """Whether a stop has been requested."""
        if not self.reason and time.monotonic() - self._looked > self._every:
            self._looked = time.monotonic()
            if self._file and self._is_there(self._file):
                self.reason = "SIGTERM"
            elif _STARTED_BY_JVM and os.getppid() != _PARENT:
                self.reason = "the end of the process that started it"
        return bool(self.reason)

    def _is_there(self, file: AnyPath) -> bool:
        try:
            return file.exists()
        except OSError:  # a store that is temporarily unavailable must not end a run
            return False

    def set(self) -> None:
        """Request a stop by signal."""
        self.reason = "SIGTERM"


@contextmanager
def on_sigterm(call: Callable[[], None]) -> Iterator[None]:
    """Call a function on the first SIGTERM; a second one ends the process. Only effective in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        call()

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
