"""Watching a rank's own process: it ends when it makes no progress, and when whoever started it has gone."""

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import psutil
from torch import Tensor

from mamdr_core import heartbeat
from mamdr_core.parallel.collective import Collective, PeerLostError

PATIENCE = 4
"""How many times the limit a rank may wait for the others: the one that hangs ends first, and is the one reported."""
_LOOKS = 20
"""Looks at the signs of progress within the limit."""
_LOOK_AT_PARENTS = 1.0
"""Seconds between two looks."""
_PR_SET_PDEATHSIG = 1


class Watch:
    """Ends this process, with the stacks of its threads on stderr, once it has made no progress for too long.

    Progress is a batch descended on or predicted, a batch of rows read, a part of theta_i written, or a collective
    begun or ended; so a round, a pass or a validation may be longer than the limit, but not a single step with its
    compilation. A rank inside a collective waits for others and has `PATIENCE` times the limit.

    The clock is faulthandler's, a thread of C: it also ends a process whose interpreter is stuck.

    Args:
        limit: seconds; 0: never.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._waiting = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch."""
        if self._limit:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Watch no longer."""
        if self._limit:
            self._ended.set()
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def joined(self, join: Callable[[], Collective]) -> Collective:
        """Wait for the other ranks to join; the collective is watched."""
        with _Waiting(self):
            return WatchedCollective(join(), self)

    def wait(self, waits: bool) -> None:
        """Say that this rank begins or ends to wait for others."""
        self._waiting = waits
        heartbeat.beat()

    def _look(self) -> None:
        seen = -1
        while True:
            if heartbeat.count != seen:
                seen = heartbeat.count
                limit = self._limit * (PATIENCE if self._waiting else 1)
                faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__ or 2)
            if self._ended.wait(self._limit / _LOOKS):
                return


class WatchedCollective:
    """A Collective that tells a watch when its rank waits, and whose failures are `PeerLostError`."""

    def __init__(self, collective: Collective, watch: Watch) -> None:
        self.rank, self.size = collective.rank, collective.size
        self._collective, self._watch = collective, watch

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See `Collective`."""
        with _Waiting(self._watch):
            return self._collective.all_reduce(tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """See `Collective`."""
        with _Waiting(self._watch):
            return self._collective.all_gather(tensor)

    def all_to_all(self, tensor: Tensor, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        """See `Collective`."""
        with _Waiting(self._watch):
            return self._collective.all_to_all(tensor, splits)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """See `Collective`."""
        with _Waiting(self._watch):
            return self._collective.broadcast(tensor)


class _Waiting:
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __enter__(self) -> None:
        self._watch.wait(True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.wait(False)
        if isinstance(error, RuntimeError):  # Horovod's and torch's alike
            raise PeerLostError(f"a collective failed, as it does when another rank is lost: {error}") from error


def die_with_parents() -> None:
    """End this process as soon as one of those between it and its Spark task's Python ends, or that one.

    The kernel sees to the next of them (on Linux), a thread to the others, of which Horovod has two.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parents = []
    for process in psutil.Process().parents():
        parents.append(process)
        if "pyspark.worker" in process.cmdline():
            break

    def look() -> None:
        while all(process.is_running() for process in parents):
            time.sleep(_LOOK_AT_PARENTS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=look, name="parents", daemon=True).start()
