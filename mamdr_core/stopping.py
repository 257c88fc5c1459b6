"""Whether a process that trains has been asked to stop, which it does after the round that it is in."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mamdr_core.object_store import Place, StorePath

_LOOK_EVERY, _LOOK_IN_STORE_EVERY = 1.0, 5.0
"""Seconds between two looks at the file and the parent; a look into an object store takes longer."""
_STARTED_BY_JVM = "PYSPARK_GATEWAY_PORT" in os.environ
_PARENT = os.getppid()


class StopRequest:
    """A request by SIGTERM, by a file, or since the process that started this one has gone (spark-submit was killed).

    Args:
        file: asks while it exists; None: this rank does not look.

    Attributes:
        reason: who asked; empty: nobody.
    """

    def __init__(self, file: Place | None = None) -> None:
        self.reason = ""
        self._file = file
        self._every = _LOOK_IN_STORE_EVERY if isinstance(file, StorePath) else _LOOK_EVERY
        self._looked = time.monotonic()

    def made(self) -> bool:
        """Whether somebody has asked."""
        if not self.reason and time.monotonic() - self._looked > self._every:
            self._looked = time.monotonic()
            if self._file and self._is_there(self._file):
                self.reason = "SIGTERM"
            elif _STARTED_BY_JVM and os.getppid() != _PARENT:
                self.reason = "the end of the process that started it"
        return bool(self.reason)

    def _is_there(self, file: Place) -> bool:
        try:
            return file.exists()
        except OSError:  # a store that is away for a moment must not end a run
            return False

    def ask(self) -> None:
        """Ask by signal."""
        self.reason = "SIGTERM"


@contextmanager
def on_sigterm(call: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM call something, and a second one end the process as usual; only in a process's main thread."""
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
