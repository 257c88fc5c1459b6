"""What the driver hears of its ranks: a connection from each, over which it writes what it logs and how it ends."""

import hmac
import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

DONE_MARK = "@mamdr-rank-done"
"""The last line of a rank that has done its part."""
ERROR_MARK = "@mamdr-rank-error "
"""Before a JSON object: kind (user: a MamdrError; lost: a collective failed; bug), message and traceback."""
LAST_WORDS = 1.0
"""Seconds from the first sign of a failure to the end of the other ranks, in which the cause may still be told."""
_STALLED = re.compile(r"^Timeout \(\d+:\d\d:\d\d(\.\d+)?\)!$")
"""What faulthandler writes before the stacks of a process that made no progress."""
_NOISE = "[Gloo] Rank "
"""Begins what torch says on stdout of connections that are as they should be."""
_HELLO_SECONDS = 10.0
_LONGEST_HELLO = 200


@dataclass(frozen=True)
class DriverAddress:
    """Where the driver hears ranks.

    Attributes:
        host, port: of its listener.
        token: what a rank must say first; it travels with the job, as the job itself does.
    """

    host: str
    port: int
    token: str = field(repr=False)


class RankOutput:
    """The driver's end: passes on what ranks write to stderr line by line, and keeps what tells of an end.

    Args:
        ranks: world size W.
        bind: address to listen at.
        host: name by which ranks reach it.

    Attributes:
        address: for the ranks.
        errors: by rank, in the order in which they were told, what ERROR_MARK said.
        stalls: by rank that made no progress, the stacks of its threads.
        lost: ranks whose connection ended without a word, in order.
        failed: set once any of these has something.
        joined: set once all ranks have connected.
    """

    def __init__(self, ranks: int, bind: str, host: str) -> None:
        self._server = socket.create_server((bind, 0))
        self.address = DriverAddress(host, self._server.getsockname()[1], secrets.token_hex(16))
        self.errors: dict[int, Mapping[str, Any]] = {}
        self.stalls: dict[int, list[str]] = {}
        self.lost: list[int] = []
        self.failed = threading.Event()
        self.joined = threading.Event()
        self._ranks = ranks
        self._connections: list[socket.socket] = []
        self._done: set[int] = set()
        self._closed = False
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="ranks", daemon=True).start()

    def __enter__(self) -> Self:
        """Listen."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Hang up: ranks that still run end themselves."""
        with self._lock:
            self._closed = True
            for connection in (self._server, *self._connections):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._hear, args=(connection,), name="rank", daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        with connection, connection.makefile("r", encoding="utf-8", errors="replace", newline="\n") as lines:
            connection.settimeout(_HELLO_SECONDS)
            try:
                token, rank = lines.readline(_LONGEST_HELLO).split()
            except (OSError, ValueError):
                return
            connection.settimeout(None)
            if hmac.compare_digest(token.encode(), self.address.token.encode()) and self._welcomes(connection):
                with suppress(OSError):
                    for line in lines:
                        self._take(int(rank), line.rstrip("\r\n"))
                self._end(int(rank))

    def _welcomes(self, connection: socket.socket) -> bool:
        """Whether ranks may still join: Spark starts a task that it lost again, and the driver all ranks together."""
        with self._lock:
            if self._closed or self.failed.is_set():
                return False
            self._connections.append(connection)
            if len(self._connections) == self._ranks:
                self.joined.set()
            return True

    def _take(self, rank: int, line: str) -> None:
        with self._lock:
            if line == DONE_MARK:
                self._done.add(rank)
            elif line.startswith(ERROR_MARK):
                self.errors.setdefault(rank, json.loads(line.removeprefix(ERROR_MARK)))
                self.failed.set()
            elif _STALLED.match(line):
                self.stalls[rank] = []
                self.failed.set()
            elif rank in self.stalls:
                self.stalls[rank].append(line)
            elif (
                line and not line.startswith(_NOISE) and not self.failed.is_set()
            ):  # afterwards ranks only tell that they were interrupted
                sys.stderr.write(f"[rank {rank}] {line}\n" if rank else f"{line}\n")
                sys.stderr.flush()

    def _end(self, rank: int) -> None:
        with self._lock:
            if not self._closed and rank not in self._done and rank not in self.errors and rank not in self.stalls:
                self.lost.append(rank)
                self.failed.set()


def speak_to_driver(address: DriverAddress, rank: int) -> None:
    """Have all that this process writes to stdout and stderr go to the driver, and end it when the driver hangs up.

    Args:
        address: of the driver.
        rank: of this process.

    Raises:
        OSError: the driver cannot be reached.
    """
    connection = socket.create_connection((address.host, address.port))
    connection.sendall(f"{address.token} {rank}\n".encode())
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(connection.fileno(), stream)

    def end_with_driver() -> None:
        with suppress(OSError):
            connection.recv(1)  # the driver never says anything: this returns when it hangs up, or has gone
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_driver, name="driver", daemon=True).start()
