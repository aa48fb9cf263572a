"""One decoder process: files come in over a socket, pictures go out. See `imgclust.images.decoder_pool`.

Started as `python -m imgclust.images.decoder_process SOCKET`, the number of an inherited socket. Each message
is its length and as many bytes; the first one is the configuration. It decodes what strangers send, so it
gets no secrets, its memory is bounded, and its parent checks what it answers.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from imgclust.errors import ImageError
from imgclust.images.decode import Limits
from imgclust.support.confined import confine
from imgclust.support.machine import keep_freed_memory
from imgclust.types import Preprocessing

LENGTH = struct.Struct("!Q")
READY = b"ready"
MAX_TEXT = 1000  # characters of a reason


def send(channel: socket.socket, content: bytes | memoryview) -> None:
    channel.sendall(LENGTH.pack(len(content)))
    channel.sendall(content)


def receive(channel: socket.socket, longest: int) -> bytearray:
    """A message.

    Raises:
        EOFError: nobody is at the other end.
        ValueError: it would be longer than `longest`.
    """
    (size,) = LENGTH.unpack(_exactly(channel, LENGTH.size))
    if size > longest:
        raise ValueError(f"a message of {size} bytes")
    return _exactly(channel, size)


def _exactly(channel: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    view, taken = memoryview(content), 0
    while taken < size:
        count = channel.recv_into(view[taken:])
        if not count:
            raise EOFError
        taken += count
    return content


def answer(decode: Callable[[bytes], Any], data: bytes) -> tuple[dict[str, Any], Any]:
    """What is sent back: a header, and the pixels, if there are any."""
    try:
        picture = decode(data)
    except ImageError as error:
        return {"code": error.code, "message": str(error)[:MAX_TEXT]}, b""
    except BaseException as error:  # a codec's panic need not be an Exception
        reason = f"the decoder failed: {type(error).__name__}: {str(error)[:200]!a}"
        return {"code": "decode-failed", "message": reason}, b""
    header = {
        "width": picture.width, "height": picture.height, "format": picture.format, "hash": picture.hash,
    }  # fmt: skip
    return header, memoryview(picture.pixels).cast("B")


def serve(channel: socket.socket) -> None:
    config = json.loads(receive(channel, 1 << 20))
    confine(config["memory_limit"])
    keep_freed_memory()
    module, _, function = config["decode"].partition(":")
    decoder = getattr(importlib.import_module(module), function)
    raw = config["preprocessing"]
    preprocessing = Preprocessing(**{**raw, "mean": tuple(raw["mean"]), "std": tuple(raw["std"])})
    limits = Limits(**config["limits"])

    def decode(data: bytes) -> Any:
        return decoder(data, preprocessing, limits, hashed=config["hashed"])

    send(channel, READY)
    while True:
        data = bytes(receive(channel, sys.maxsize))  # of the parent, which is trusted
        # a thread in C: it ends this process even while a codec holds the GIL and the parent is gone
        faulthandler.dump_traceback_later(2 * config["timeout"], exit=True)
        header, pixels = answer(decode, data)
        faulthandler.cancel_dump_traceback_later()
        send(channel, json.dumps(header).encode())
        send(channel, pixels)


def main() -> None:
    # the parent decides when this ends; a Ctrl-C on the terminal reaches every process of it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(socket.socket(fileno=int(sys.argv[1])))
    except (EOFError, ConnectionError):
        os._exit(0)


if __name__ == "__main__":
    main()
