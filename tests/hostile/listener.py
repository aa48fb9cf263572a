"""Stands for what must not be reached: counts whoever connects to this machine."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.support.origin import response


class Listener:
    """Accepts on one port of every IPv4 and IPv6 address of this machine, and counts."""

    def __init__(self) -> None:
        self.accepted = 0
        self._sockets = [socket.create_server(("0.0.0.0", 0))]
        self.port: int = self._sockets[0].getsockname()[1]
        if socket.has_ipv6:
            with contextlib.suppress(OSError):
                self._sockets.append(socket.create_server(("::", self.port), family=socket.AF_INET6))
        for listening in self._sockets:
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                self.accepted += 1
                with client:
                    client.sendall(response(b"reached"))

    def close(self) -> None:
        for listening in self._sockets:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
