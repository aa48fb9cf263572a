"""One fetcher process as its parent sees it: started, spoken to, listened to, ended. Never waits for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import orjson

MAX_LINE = 4 * 1024 * 1024  # bytes; the longest honest line, 2,048 failures of 400 characters, is far shorter
LAST_WORDS = 4000  # characters of stderr that are kept for the line about a dead process
MAX_MUTTER = 256 * 1024  # bytes of stderr that are read
_RECEIVE = 256 * 1024

_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH",
                "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "RES_OPTIONS")  # fmt: skip


class LinkLostError(Exception):
    """The process is gone or talks nonsense; the text says which."""


def environment(also: str = "") -> dict[str, str]:
    """What a fetcher sees of the environment: no setting, for a setting may be a password.

    Args:
        also: names that begin so are passed on too; empty: none.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or (also and name.startswith(also))
    }
    # a pool of threads in each fetcher would only cost memory
    one = dict.fromkeys(
        ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKIO_WORKER_THREADS"), "1"
    )
    return {**kept, **one, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


class FetcherLink:
    """A running process and the socket to it.

    Args:
        config: the first line that it gets.
        ring_file: of the slots; the process inherits it.
        also: see `environment`.

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
                stderr=subprocess.PIPE,  # codecs write there what a stranger's image says
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
        self.mutter = self.process.stderr
        os.set_blocking(self.mutter.fileno(), False)
        self._muttered = 0
        self._heard = ""  # the end of it
        self._inbox = bytearray()
        self._outbox = bytearray()
        self.put(config)

    @property
    def waiting(self) -> bool:
        """Whether the socket has not taken everything yet."""
        return bool(self._outbox)

    def put(self, message: dict[str, Any]) -> None:
        """Say something with the next `send`."""
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

    def overhear(self) -> str:
        """What the process has written to stderr since the last call.

        A crash's traceback is there, and the warnings of codecs, which no image may use to fill a disk: after
        `MAX_MUTTER` bytes nobody listens any more, and what is written goes nowhere.
        """
        if self.mutter.closed:
            return ""
        try:
            text = os.read(self.mutter.fileno(), _RECEIVE)
        except OSError:  # nothing is there
            return ""
        self._muttered += len(text)
        if self._muttered > MAX_MUTTER:
            self.mutter.close()
        heard = text.decode(errors="backslashreplace")
        self._heard = (self._heard + heard)[-LAST_WORDS:]
        return heard

    def last_words(self) -> str:
        """The end of all that it has written to stderr: why it died is there, overheard before or not."""
        self.overhear()
        return self._heard

    def close(self) -> None:
        """Hang up, which ends an honest fetcher."""
        self.channel.close()
        self.mutter.close()

    def kill(self) -> None:
        self.close()
        self.process.kill()
