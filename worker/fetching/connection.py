"""One fetcher process as its parent sees it: start it, write to it, read from it, end it. Never blocks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import orjson

from imgclust.support.confined import environment

MAX_LINE = 4 * 1024 * 1024  # bytes; the longest honest line, 2,048 failures of 400 characters, is far shorter
STDERR_TAIL = 4000  # characters of stderr that are kept for the log line about a dead process
MAX_STDERR = 256 * 1024  # bytes of stderr that are read in all
_RECEIVE = 256 * 1024


class LinkLostError(Exception):
    """The process is gone, or broke the protocol; the text says which."""


class FetcherLink:
    """A running process and the socket to it.

    Args:
        config: the first line that it gets.
        ring_file: of the slots; the process inherits it.
        also: see `imgclust.support.confined.environment`.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, config: dict[str, Any], ring_file: int, also: str = "") -> None:
        self.channel, theirs = socket.socketpair()
        try:
            # a program of its own, and not multiprocessing's: that one would import the parent's main module
            # again, whatever it is, and speak pickle
            self.process = subprocess.Popen(  # noqa: S603 — our own interpreter, our own module
                [sys.executable, "-P", "-W", "ignore", "-m", "worker.fetching.process",
                 str(theirs.fileno()), str(ring_file)],
                pass_fds=(theirs.fileno(), ring_file),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # codecs quote strangers' images there
                env=environment(also),
                process_group=0,
            )  # fmt: skip
        except OSError:
            self.channel.close()
            raise
        finally:
            theirs.close()
        self.channel.setblocking(False)
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        os.set_blocking(self.stderr.fileno(), False)
        self._stderr_bytes = 0
        self._stderr_tail = ""  # the end of it
        self._inbox = bytearray()
        self._outbox = bytearray()
        self.put(config)

    @property
    def waiting(self) -> bool:
        """Whether the socket has not taken everything yet."""
        return bool(self._outbox)

    def put(self, message: dict[str, Any]) -> None:
        """Queue a message for the next `send`."""
        self._outbox += orjson.dumps(message) + b"\n"

    def send(self) -> None:
        """Send as much as the socket takes.

        Raises:
            LinkLostError: nobody is at the other end.
        """
        try:
            sent = self.channel.send(self._outbox)
            del self._outbox[:sent]
        except BlockingIOError:
            pass
        except OSError:
            raise LinkLostError("its socket is closed") from None

    def receive(self) -> list[bytearray]:
        """The whole lines that have arrived.

        Raises:
            LinkLostError: nobody is at the other end, or a line does not end.
        """
        try:
            data = self.channel.recv(_RECEIVE)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise LinkLostError("it died")
        self._inbox += data
        *lines, self._inbox = self._inbox.split(b"\n")
        if len(self._inbox) > MAX_LINE:
            raise LinkLostError("it sends a line without end")
        return lines

    def read_stderr(self) -> str:
        """What the process has written to stderr since the last call.

        A crash's traceback is there, and the warnings of codecs, which no image may use to fill a disk: after
        `MAX_STDERR` bytes the pipe is closed, and further output is lost.
        """
        if self.stderr.closed:
            return ""
        try:
            text = os.read(self.stderr.fileno(), _RECEIVE)
        except OSError:  # nothing is there
            return ""
        self._stderr_bytes += len(text)
        if self._stderr_bytes > MAX_STDERR:
            self.stderr.close()
        text_read = text.decode(errors="backslashreplace")
        self._stderr_tail = (self._stderr_tail + text_read)[-STDERR_TAIL:]
        return text_read

    def stderr_tail(self) -> str:
        """The end of all that it has written to stderr, where the reason of its death is."""
        self.read_stderr()
        return self._stderr_tail

    def close(self) -> None:
        """Close the socket, which ends an honest fetcher."""
        self.channel.close()
        self.stderr.close()

    def kill(self) -> None:
        self.close()
        self.process.kill()
