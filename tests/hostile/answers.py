"""Web servers that mean no good: what they answer, and the error code that each must end with."""

from __future__ import annotations

import asyncio
import gzip
import zlib

from tests.hostile.images import seeds
from tests.support.origin import Handler, Request, drip, response, silence, then_close

MAX_BYTES = 2_000_000  # what endless bodies exceed; a worker that meets them is told this limit

CHUNKED, GZIP = "Transfer-Encoding: chunked", "Content-Encoding: gzip"
FORBIDDEN, MISSING, FAILED = "url-forbidden", "not-found", "fetch-failed"
TIMEOUT, LARGE = "fetch-timeout", "too-large"


def endless(piece: bytes, head: bytes, *, chunked: bool = False, pause: float = 0.0) -> Handler:
    """Sends `piece` again and again, until the other side hangs up."""

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(head)
        for _turn in range(1_000_000):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return handle


def _head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


Answers = dict[str, tuple[bytes | Handler, str]]


def answers() -> Answers:
    """Path → what is answered there (complete, or soon over), and the code."""
    return {**_statuses(), **_redirects(), **_bodies()}


def _statuses() -> Answers:
    picture, found = seeds()["jpeg"], Answers()
    for status in ("400 Bad Request", "401 Unauthorized", "403 Forbidden", "418 A teapot", "429 Slow Down",
                   "500 Oops", "502 Bad Gateway", "503 Later", "201 Created", "206 Partial Content",
                   "299 What", "999 Denied"):  # fmt: skip
        found[f"status-{status[:3]}"] = (response(picture, status), FAILED)
    for status in ("204 No Content", "304 Not Modified"):
        found[f"status-{status[:3]}"] = (then_close(_head(status=status)), FAILED)
    for status in ("404 Not Found", "410 Gone"):
        found[f"status-{status[:3]}"] = (response(picture, status), MISSING)
    return found


def _redirects() -> Answers:
    found = Answers()
    for name, location, code in (
        ("nowhere", "", FAILED), ("loop", "/redirect-loop", FAILED),
        ("metadata", "http://169.254.169.254/", FORBIDDEN),
        ("loopback", "http://127.0.0.1/", FORBIDDEN), ("mapped", "http://[::ffff:127.0.0.1]/", FORBIDDEN),
        ("file", "file:///etc/passwd", FORBIDDEN), ("gopher", "gopher://127.0.0.1:6379/_FLUSHALL", FORBIDDEN),
        ("bucket", "s3://secrets/key", FORBIDDEN), ("ssh", "http://example.com:22/", FORBIDDEN),
        ("credentials", "http://a:b@example.com/", FORBIDDEN),
        ("data", "data:image/png;base64,AAAA", FORBIDDEN),
        ("relative", "//169.254.169.254/x", FORBIDDEN), ("script", "javascript:alert(1)", FORBIDDEN),
    ):  # fmt: skip
        headers = [f"Location: {location}"] if location else []
        found[f"redirect-{name}"] = (response(b"", "302 Found", *headers), code)
    return found


def _bodies() -> Answers:
    picture = seeds()["jpeg"]
    bomb = zlib.compress(bytes(100_000_000), 9)
    return {
        "cut": (then_close(response(picture[:300], length=9_000)), FAILED),
        "cut-chunked": (then_close(_head(CHUNKED) + b"ff\r\nabc"), FAILED),
        "cut-head": (then_close(b"HTTP/1.1 200 OK\r\nContent-"), FAILED),
        "closed": (then_close(b""), FAILED),
        "not-http": (then_close(b"220 mail.example ESMTP\r\n"), FAILED),
        "http09": (then_close(picture), FAILED),
        "version": (then_close(b"HTTP/9.9 200 OK\r\n\r\n" + picture), FAILED),
        "two-lengths": (then_close(_head("Content-Length: 5", "Content-Length: 6") + picture), FAILED),
        "negative-length": (then_close(_head("Content-Length: -5") + picture), FAILED),
        "text-length": (then_close(_head("Content-Length: many") + picture), FAILED),
        "length-and-chunks": (then_close(_head("Content-Length: 5", CHUNKED) + picture), FAILED),
        "bad-chunk": (then_close(_head(CHUNKED) + b"zz\r\n" + picture), FAILED),
        "nul-header": (then_close(_head("X: a\0b", f"Content-Length: {len(picture)}") + picture), FAILED),
        "long-header": (then_close(_head("X: " + "a" * 100_000) + picture), FAILED),
        "many-headers": (then_close(_head(*(f"X-{i}: {'a' * 4000}" for i in range(500)))), FAILED),
        "upgrade": (then_close(_head("Upgrade: websocket", "Connection: Upgrade", status="101 Yes")), FAILED),
        "announced": (then_close(_head("Content-Length: 9999999999")), LARGE),
        "larger": (response(bytes(MAX_BYTES + 1)), LARGE),
        "gzip-bomb": (response(gzip.compress(bytes(100_000_000), 9), "200 OK", GZIP), LARGE),
        "deflate-bomb": (response(bomb, "200 OK", "Content-Encoding: deflate"), LARGE),
        "gzip-many": (response(gzip.compress(picture), "200 OK", GZIP + ", gzip" * 99), FAILED),
        "gzip-then-more": (response(gzip.compress(picture) + b"more", "200 OK", GZIP), FAILED),
        "gzip-members": (response(gzip.compress(b"") * 50_000, "200 OK", GZIP), FAILED),
        "not-gzip": (response(b"\x1f\x8b\x08" + picture, "200 OK", GZIP), FAILED),
        "not-packed": (response(b"plain", "200 OK", GZIP), "unsupported-format"),
        "cut-gzip": (response(gzip.compress(picture)[:-9], "200 OK", GZIP), FAILED),
        "brotli": (response(b"\x8b\x02\x80", "200 OK", "Content-Encoding: br"), FAILED),
        "unknown-encoding": (response(b"x", "200 OK", "Content-Encoding: ../etc"), "unsupported-format"),
        "empty": (response(b""), "unsupported-format"),
        "typed": (response(b"<html>", "200 OK", "Content-Type: image/jpeg"), "unsupported-format"),
        "endless": (endless(picture, _head("Connection: close")), LARGE),
        "endless-chunks": (endless(picture, _head(CHUNKED), chunked=True), LARGE),
        "endless-small-chunks": (endless(b"x", _head(CHUNKED), chunked=True), TIMEOUT),
        "endless-headers": (endless(b"X: y\r\n", _head()[:-2]), FAILED),
        "drip": (drip(picture, 1, 0.05), TIMEOUT),
        "drip-chunks": (endless(b"\xff", _head(CHUNKED), chunked=True, pause=0.05), TIMEOUT),
        "stalled": (drip(picture, 600, 60.0), TIMEOUT),
    }  # fmt: skip


def silent() -> Answers:
    """What never gets as far as an answer. Each needs a host of its own, or the host is soon left alone."""
    return {
        "silent": (silence, TIMEOUT),
        "drip-head": (endless(b"H", b"", pause=0.05), FAILED),
        "drip-headers": (endless(b"X: y\r\n", _head()[:-2], pause=0.05), TIMEOUT),
        "continue": (endless(b"HTTP/1.1 100 Continue\r\n\r\n", b"", pause=0.05), TIMEOUT),
        "silent-after-status": (endless(b"", b"HTTP/1.1 200 OK\r\n", pause=0.05), TIMEOUT),
    }
