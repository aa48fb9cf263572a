"""Stands in for `imgclust.images.decode.decode` inside a fetcher: bodies that begin with b"do:" are orders.

Only a test can reach it: the pool's `decode` argument is set by no setting.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from imgclust.images import decode as real
from imgclust.types import Preprocessing


def decode(data: bytes, preprocessing: Preprocessing, limits: real.Limits, **options: Any) -> Any:
    if data.startswith(b"do:"):
        order, _, argument = data[3:].decode("latin-1").partition(" ")
        ORDERS[order](argument)
        picture = Path(argument + ".ok")
        data = picture.read_bytes() if picture.exists() else b""
    return real.decode(data, preprocessing, limits, **options)


def _die(number: int) -> None:
    """As a crash in this very thread: another thread may take the signal, so this one must not go on."""
    os.kill(os.getpid(), number)
    time.sleep(3600)


def crash(_: str) -> None:
    _die(signal.SIGSEGV)


def crash_once(folder: str) -> None:
    if not _seen(folder):
        _die(signal.SIGKILL)


def hang(_: str) -> None:
    time.sleep(3600)


def hang_once(folder: str) -> None:
    if not _seen(folder):
        time.sleep(3600)


def spin(_: str) -> None:
    """Holds the GIL for ever, as a codec in C may."""
    re.fullmatch(r"(a|a)*", "a" * 64 + "b")


def panic(_: str) -> None:
    raise KeyboardInterrupt("as a codec written in Rust does")


def eat(_: str) -> None:
    bytearray(8 << 30)


def say(message: str) -> None:
    """Speak to the parent as a fetcher that was taken over would."""
    channel = socket.socket(fileno=os.dup(int(sys.argv[1])))
    channel.settimeout(None)
    channel.sendall(message.encode("latin-1") + b"\n")
    time.sleep(3600)


def mutter(text: str) -> None:
    """Write to stderr as a codec does, three megabytes of it."""
    line = text.encode("latin-1")
    for _ in range(3_000_000 // len(line)):
        with contextlib.suppress(OSError):
            os.write(2, line)


def _seen(path: str) -> bool:
    """Whether this is not the first time."""
    marker = Path(path)
    if marker.exists():
        return True
    marker.touch()
    return False


ORDERS = {
    "crash": crash, "crash_once": crash_once, "hang": hang, "hang_once": hang_once,
    "spin": spin, "panic": panic, "eat": eat, "say": say, "mutter": mutter,
}  # fmt: skip
