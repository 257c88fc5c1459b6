"""Output of ranks on the driver: each rank connects and sends its log lines and its final status."""

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
"""Last line of a rank that has finished."""
ERROR_MARK = "@mamdr-rank-error "
"""Prefix of a JSON object: kind (user: a MamdrError; lost: a collective failed; bug), message and traceback."""
GRACE_SECONDS = 1.0
"""Seconds between the first sign of a failure and stopping the other ranks, to receive the cause."""
_STALLED = re.compile(r"^Timeout \(\d+:\d\d:\d\d(\.\d+)?\)!$")
"""Line of faulthandler before the stacks of a process without progress."""
_NOISE = "[Gloo] Rank "
"""Prefix of messages of torch on stdout about successful connections."""
_HANDSHAKE_SECONDS = 10.0
_HANDSHAKE_BYTES = 200


@dataclass(frozen=True)
class DriverAddress:
    """Address of the driver for ranks.

    Attributes:
        host, port: of the listening socket.
        token: secret that a rank must send first; it is sent to ranks with their job.
    """

    host: str
    port: int
    token: str = field(repr=False)


class RankOutput:
    """Receiver on the driver: forwards the lines of ranks to stderr and records how ranks end.

    Args:
        ranks: world size W.
        bind: address to listen on.
        host: host name under which ranks reach the driver.

    Attributes:
        address: for the ranks.
        errors: rank to the JSON object after ERROR_MARK, in the order of arrival.
        stalls: rank without progress to the stacks of its threads.
        lost: ranks that disconnected without a final status, in order.
        failed: set once a rank has failed in any of these ways.
        connected: set once all ranks have connected.
    """

    def __init__(self, ranks: int, bind: str, host: str) -> None:
        self._server = socket.create_server((bind, 0))
        self.address = DriverAddress(host, self._server.getsockname()[1], secrets.token_hex(16))
        self.errors: dict[int, Mapping[str, Any]] = {}
        self.stalls: dict[int, list[str]] = {}
        self.lost: list[int] = []
        self.failed = threading.Event()
        self.connected = threading.Event()
        self._ranks = ranks
        self._connections: list[socket.socket] = []
        self._done: set[int] = set()
        self._closed = False
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="ranks", daemon=True).start()

    def __enter__(self) -> Self:
        """Return the receiver, which already listens."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; ranks that still run then terminate."""
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
            threading.Thread(target=self._read_lines, args=(connection,), name="rank", daemon=True).start()

    def _read_lines(self, connection: socket.socket) -> None:
        with connection, connection.makefile("r", encoding="utf-8", errors="replace", newline="\n") as lines:
            connection.settimeout(_HANDSHAKE_SECONDS)
            try:
                token, rank = lines.readline(_HANDSHAKE_BYTES).split()
            except (OSError, ValueError):
                return
            connection.settimeout(None)
            if hmac.compare_digest(token.encode(), self.address.token.encode()) and self._register(connection):
                with suppress(OSError):
                    for line in lines:
                        self._handle_line(int(rank), line.rstrip("\r\n"))
                self._handle_disconnect(int(rank))

    def _register(self, connection: socket.socket) -> bool:
        """Register a rank unless one has failed: Spark retries single tasks, but the driver restarts all ranks."""
        with self._lock:
            if self._closed or self.failed.is_set():
                return False
            self._connections.append(connection)
            if len(self._connections) == self._ranks:
                self.connected.set()
            return True

    def _handle_line(self, rank: int, line: str) -> None:
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
            # After a failure the other ranks only report that they were interrupted.
            elif line and not line.startswith(_NOISE) and not self.failed.is_set():
                sys.stderr.write(f"[rank {rank}] {line}\n" if rank else f"{line}\n")
                sys.stderr.flush()

    def _handle_disconnect(self, rank: int) -> None:
        with self._lock:
            if not self._closed and rank not in self._done and rank not in self.errors and rank not in self.stalls:
                self.lost.append(rank)
                self.failed.set()


def redirect_output_to_driver(address: DriverAddress, rank: int) -> None:
    """Redirect stdout and stderr of this process to the driver, and kill it when the driver disconnects.

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
            connection.recv(1)  # the driver sends nothing: this returns when it disconnects
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_driver, name="driver", daemon=True).start()
