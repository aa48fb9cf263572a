"""Decoding in processes apart, so that a codec which crashes or hangs costs one image and nothing else.

A process has one image at a time: the one that it dies with, twice, is to blame. What the worker's pool has
beside this (slots in shared memory, many images under way in each process) is for its rates; here an image
travels through a socket and back, for a tenth of a millisecond.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from imgclust.errors import DecodeFailed, ImageError, ImgclustError, TooManyPixels, UnsupportedFormat
from imgclust.images.decode import Decoded, Limits
from imgclust.images.decoder_process import READY, receive, send
from imgclust.support.confined import environment, memory_needed
from imgclust.types import Preprocessing

DECODE = "imgclust.images.decode:decode"
TIMEOUT = 30.0  # seconds for one image
START_TIMEOUT = 120.0  # seconds; a busy machine imports slowly
TRIES = 2
_HEADER = 1 << 16  # bytes
_ERRORS = {error.code: error for error in (UnsupportedFormat, TooManyPixels, DecodeFailed)}
_GIVEN_UP = "the process that had this image died or hung, and did so again with nothing else in it"


class _LostError(Exception):
    """The process died, hung, or answered what no honest one does."""


class _Process:
    """A running decoder.

    Raises:
        ImgclustError: it does not start.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._size, self._timeout = config["preprocessing"]["size"], config["timeout"]
        self._channel, theirs = socket.socketpair()
        # a program of its own, and not multiprocessing's, which would import the parent's main module again
        self._process = subprocess.Popen(  # noqa: S603 — our own interpreter, our own module
            [sys.executable, "-P", "-W", "ignore", "-m", "imgclust.images.decoder_process",
             str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # codecs quote strangers' images there
            env=environment(),
            process_group=0,
        )  # fmt: skip
        theirs.close()
        try:
            self._channel.settimeout(START_TIMEOUT)
            send(self._channel, json.dumps(config).encode())
            if receive(self._channel, len(READY)) != READY:
                raise ValueError("no word of readiness")
        except (OSError, EOFError, ValueError) as error:
            self.kill()
            raise ImgclustError(
                f"a process that decodes images does not start ({type(error).__name__}: {error}); it is "
                f"`{sys.executable} -m imgclust.images.decoder_process`"
            ) from None

    def decode(self, data: bytes) -> tuple[dict[str, Any], bytearray]:
        """The header and the pixels of an answer. Raises _LostError."""
        deadline = time.monotonic() + self._timeout
        try:
            self._channel.settimeout(self._timeout)
            send(self._channel, data)
            header = json.loads(receive(self._channel, _HEADER))
            self._channel.settimeout(max(0.001, deadline - time.monotonic()))
            return header, receive(self._channel, self._size * self._size * 3)
        except (OSError, EOFError, ValueError) as error:
            raise _LostError(str(error)) from None

    def kill(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()


class DecoderPool:
    """Decodes in up to so many processes, started as they are needed; for any thread. A context manager.

    Args:
        processes: at most.
        preprocessing: of the encoder.
        limits: what one image may cost; the memory of each process follows from them.
        hashed: compute perceptual hashes, too.
        timeout: seconds for one image.
        decode: dotted name of the decoder; tests put a crashing one here.
    """

    def __init__(
        self,
        processes: int,
        preprocessing: Preprocessing,
        limits: Limits,
        *,
        hashed: bool = False,
        timeout: float = TIMEOUT,
        decode: str = DECODE,
    ) -> None:
        self._config = {
            "preprocessing": dataclasses.asdict(preprocessing), "limits": dataclasses.asdict(limits),
            "memory_limit": memory_needed(limits.max_pixels, 2 * limits.max_bytes),
            "hashed": hashed, "timeout": timeout, "decode": decode,
        }  # fmt: skip
        self._size = preprocessing.size
        self._may_decode = threading.BoundedSemaphore(processes)
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._closed = False
        self.lost = 0

    def decode(self, data: bytes) -> Decoded:
        """As `imgclust.images.decode.decode`, which says what it raises.

        Raises:
            ImgclustError: no process can be started.
        """
        with self._may_decode:
            for _ in range(TRIES):
                process = self._taken()
                try:
                    picture = self._picture(*process.decode(data))
                except _LostError:
                    process.kill()
                    self.lost += 1
                except ImageError:
                    self._give_back(process)
                    raise
                except BaseException:
                    process.kill()
                    raise
                else:
                    self._give_back(process)
                    return picture
        raise DecodeFailed(_GIVEN_UP)

    def _taken(self) -> _Process:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        return _Process(self._config)

    def _give_back(self, process: _Process) -> None:
        self._idle.put(process)
        if self._closed:
            self.close()

    def _picture(self, header: dict[str, Any], pixels: bytearray) -> Decoded:
        try:
            if "code" in header:
                raise _ERRORS[header["code"]](str(header["message"]))
            shape = (self._size, self._size, 3)
            array = np.frombuffer(pixels, np.uint8).reshape(shape)
            digest = None if header["hash"] is None else int(header["hash"])
            return Decoded(array, int(header["width"]), int(header["height"]), str(header["format"]), digest)
        except (KeyError, TypeError, ValueError) as error:
            raise _LostError(f"an answer that is none: {error}") from None

    def close(self) -> None:
        """End the processes; one that is decoding ends after that."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().kill()

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
