"""Watchdogs of a rank process: it terminates without progress, and when a parent process has ended."""

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import psutil
from torch import Tensor

from mamdr_core.parallel.collective import Collective, PeerLostError
from mamdr_core.runtime import heartbeat

PATIENCE = 4
"""Multiple of the limit for ranks that wait for others, so that the hanging rank terminates first and is reported."""
_CHECKS = 20
"""Number of checks for progress within the limit."""
_PARENT_CHECK_SECONDS = 1.0
"""Seconds between two checks of the parent processes."""
_PR_SET_PDEATHSIG = 1


class Watch:
    """Terminates this process, with the stacks of its threads on stderr, after too long without progress.

    Progress is a trained or predicted batch, a batch of rows read, a part of theta_i written, or the beginning or end
    of a collective. So a round, a pass or a validation may take longer than the limit, but not a single step with its
    compilation. A rank inside a collective waits for others and has `PATIENCE` times the limit.

    The timer is a C thread of faulthandler, which also terminates a process whose interpreter is blocked.

    Args:
        limit: seconds; 0: never.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._waiting = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._check, name="watch", daemon=True)

    def __enter__(self) -> Self:
        if self._limit:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._limit:
            self._ended.set()
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def joined(self, join: Callable[[], Collective]) -> Collective:
        """Wait until the other ranks have joined; returns a watched collective."""
        with _waiting(self):
            return WatchedCollective(join(), self)

    def wait(self, waits: bool) -> None:
        """Record that this rank starts or stops waiting for others."""
        self._waiting = waits
        heartbeat.beat()

    def _check(self) -> None:
        seen = -1
        while True:
            if heartbeat.count != seen:
                seen = heartbeat.count
                limit = self._limit * (PATIENCE if self._waiting else 1)
                faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__ or 2)
            if self._ended.wait(self._limit / _CHECKS):
                return


class WatchedCollective:
    """A Collective that informs a watch when its rank waits, and raises `PeerLostError` on failures."""

    def __init__(self, collective: Collective, watch: Watch) -> None:
        self.rank, self.size = collective.rank, collective.size
        self._collective, self._watch = collective, watch

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See `Collective`."""
        with _waiting(self._watch):
            return self._collective.all_reduce(tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """See `Collective`."""
        with _waiting(self._watch):
            return self._collective.all_gather(tensor)

    def all_to_all(self, tensor: Tensor, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        """See `Collective`."""
        with _waiting(self._watch):
            return self._collective.all_to_all(tensor, splits)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """See `Collective`."""
        with _waiting(self._watch):
            return self._collective.broadcast(tensor)


@contextmanager
def _waiting(watch: Watch) -> Iterator[None]:
    watch.wait(True)
    try:
        yield
    except RuntimeError as error:  # of Horovod and of torch
        raise PeerLostError(f"a collective failed, probably because another rank was lost: {error}") from error
    finally:
        watch.wait(False)


def die_with_parents() -> None:
    """Kill this process as soon as one of its parents up to the Python worker of its Spark task ends.

    On Linux the kernel watches the direct parent; a thread watches the others (with Horovod there are two).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parents = []
    for process in psutil.Process().parents():
        parents.append(process)
        if "pyspark.worker" in process.cmdline():
            break

    def check() -> None:
        while all(process.is_running() for process in parents):
            time.sleep(_PARENT_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=check, name="parents", daemon=True).start()
