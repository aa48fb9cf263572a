"""SIGTERM and SIGINT, and the exit code of a process that they ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType

EXIT_OK = 0
EXIT_HURRIED = 130  # a second SIGTERM or SIGINT: left at once


class Signals:
    """SIGTERM and SIGINT: the first asks to drain, the second to leave at once.

    Python runs handlers between two steps of the main thread, which may sit in a call to Kafka for a minute.
    The bytes that arrive on the wakeup descriptor are seen at once by a thread of its own: two seconds after
    a second signal it ends the process.
    """

    PATIENCE = 2.0

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._count = 0

    @property
    def hurry(self) -> bool:
        return self._count > 1

    @property
    def exit_code(self) -> int:
        """Of a process that they ended in order."""
        return EXIT_HURRIED if self.hurry else EXIT_OK

    def _received(self, number: int, _: FrameType | None) -> None:
        self._count += 1
        self.stop.set()

    def _listen(self, wakeups: socket.socket) -> None:
        seen = 0
        while wakeups.recv(1):
            seen += 1
            if seen == 2:
                time.sleep(self.PATIENCE)
                os._exit(EXIT_HURRIED)

    @contextlib.contextmanager
    def installed(self) -> Iterator[Signals]:
        ours, pythons = socket.socketpair()
        pythons.setblocking(False)
        threading.Thread(target=self._listen, args=(ours,), name="signals", daemon=True).start()
        before = {s: signal.signal(s, self._received) for s in (signal.SIGTERM, signal.SIGINT)}
        descriptor = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            pythons.close()
