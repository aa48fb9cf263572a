"""What goes to a fetcher process and what comes back, as values; what comes back is checked here.

A fetcher decodes what strangers send and may have been taken over, so its lines are read like an upload
event: each field has its type and its bounds, or the line is a `ProtocolError`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson

from worker.errors import ERROR_CODES

MAX_MESSAGE = 400  # characters of an error
BODIES = 128 * 1024 * 1024  # bytes of bodies that a fetcher holds, or has promised to downloads, at once


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """An image to fetch and decode; `token` names this try and is more than 0."""

    token: int
    url: str


@dataclasses.dataclass(slots=True)  # not frozen, which would make it four times as slow to make
class Decoded:
    """A picture lies in `slot`; whoever has read it calls `release`.

    Attributes:
        width, height: of the original, in pixels.
        nbytes: of the file.
    """

    token: int
    slot: int
    width: int
    height: int
    nbytes: int
    fetch_seconds: float
    decode_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """No picture could be had.

    Attributes:
        code: an error code of the wire contract.
        stage: "fetch" or "decode".
        transient: whether the same URL may succeed later.
        retry_after: seconds that the server asked to wait.
    """

    token: int
    code: str
    stage: str
    message: str
    transient: bool
    retry_after: float | None


FetchOutcome = Decoded | Failed


class ProtocolError(Exception):
    """A fetcher reported what an honest one cannot report."""


@dataclasses.dataclass(frozen=True, slots=True)
class FetcherReport:
    """One line of a fetcher: that it is ready, or outcomes."""

    ready: bool = False
    decoded: tuple[Decoded, ...] = ()
    failed: tuple[Failed, ...] = ()


_DECODED = (int, int, int, int, int, float, float)


def read_report(line: bytes | bytearray) -> FetcherReport:
    """Read a fetcher's line.

    Raises:
        ProtocolError: no honest fetcher writes this.
    """
    try:
        message = orjson.loads(line)
        if not isinstance(message, dict):
            raise ProtocolError("a line that is not an object")
        if "ready" in message:
            return FetcherReport(ready=True)
        return FetcherReport(
            False, tuple(map(_decoded, message["decoded"])), tuple(map(_failed, message["failed"]))
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(f"{type(error).__name__}: {str(error)[:100]!a}") from None


def _decoded(raw: list[Any]) -> Decoded:
    if tuple(map(type, raw)) != _DECODED:
        raise ProtocolError("a decoded picture whose fields are not five integers and two numbers")
    return Decoded(*raw)


def _failed(raw: list[Any]) -> Failed:
    token, code, stage, message, transient, wait = raw
    if type(token) is not int or code not in ERROR_CODES or stage not in ("fetch", "decode"):
        raise ProtocolError("a failure with a token, code or stage that there is not")
    if not (wait is None or type(wait) is float) or type(message) is not str:
        raise ProtocolError("a failure with a message or waiting time of the wrong type")
    text = message if message.isprintable() else ascii(message)
    return Failed(token, code, stage, text[:MAX_MESSAGE], transient is True, wait and max(0.0, wait))


def is_text(url: str) -> bool:
    """Whether a URL can be encoded at all; a lone surrogate cannot."""
    try:
        url.encode()
    except UnicodeEncodeError:
        return False
    return True
