"""A way to a server that can be cut in the middle of a request."""

import contextlib
import socket
import threading


class Proxy:
    """Passes on TCP connections to a port of this machine until it is cut, and again when it is restored.

    Args:
        target: the server's port.

    Attributes:
        port: its own.
        cuts: how often it has been cut.
    """

    def __init__(self, target: int) -> None:
        self._target, self._connections = target, set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cuts = 0
        self._until = b""
        self._is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, request: bytes) -> None:
        """Cut when a request with these bytes comes, before the server has all of it."""
        self._until = request

    def restore(self) -> None:
        """Pass on again."""
        self._until, self._is_cut = b"", False

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._is_cut:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            self._connections |= {client, server}
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_request and self._until and self._until in data:
                    target.sendall(data[: len(data) // 2])
                    self._cut()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _cut(self) -> None:
        self.cuts += 1
        self._is_cut = True
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()
