"""What `Content-Encoding` means for a body, and how it is undone. Pure.

The header is not always about compression: clients of object stores put `UTF-8`, `base64`, `aws-chunked` or
nothing there, and the store repeats it for ever. So only codings of HTTP count, all other tokens are read as
`identity`, and the bytes have the last word: what does not begin like a compressed stream is none.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from imgclust.errors import FetchFailed, TooLarge

MAX_CODINGS = 4  # each costs a pass over the body; honest servers use one
MAX_MEMBERS = 4096  # of a gzip file; the smallest blocks of real tools hold 64 KiB
_PIECE = 64 * 1024

_GZIP = frozenset(("gzip", "x-gzip"))
_OTHERS = frozenset(
    ("br", "zstd", "dcb", "dcz", "compress", "x-compress")
)  # were not asked for, and need packages
_KNOWN = _GZIP | _OTHERS | {"deflate"}
_GZIP_MAGIC = b"\x1f\x8b\x08"
# how images begin that may be read; with `ftyp` at 4
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def codings(headers: Iterable[str]) -> tuple[str, ...]:
    """The codings of HTTP among the tokens, in the order in which they were applied.

    Args:
        headers: the values of all `Content-Encoding` headers.

    Raises:
        FetchFailed: more of them than any honest server applies.
    """
    tokens = [token.strip().lower() for header in headers for token in header.split(",")]
    known = tuple(token for token in tokens if token in _KNOWN)
    if len(known) > MAX_CODINGS:
        raise FetchFailed(f"the body is packed {len(known)} times, at most {MAX_CODINGS} are undone")
    return known


def undo(data: bytes, applied: Iterable[str], limit: int) -> bytes:
    """The body as it was before codings were applied; the last one is undone first.

    Raises:
        TooLarge: there would be more than `limit` bytes.
        FetchFailed: a stream is damaged, ends early, something follows it, or it is of another coding.
    """
    for coding in reversed(tuple(applied)):
        if coding in _GZIP:
            data = _gunzip(data, limit)
        elif coding == "deflate":
            data = _inflate(data, limit)
        elif not (data.startswith((_GZIP_MAGIC, *_IMAGES)) or data[4:8] == b"ftyp"):
            raise FetchFailed(f"the server uses the encoding {coding}")
    return data


def _gunzip(data: bytes, limit: int) -> bytes:
    """All members of a gzip file (RFC 1952 2.2), of which a body may have several."""
    if not data.startswith(_GZIP_MAGIC):
        return data
    parts: list[bytes] = []
    at = size = 0
    while at < len(data) and data[at]:
        part, at = _stream(data, at, zlib.MAX_WBITS | 16, limit - size)
        parts.append(part)
        size += len(part)
        if len(parts) > MAX_MEMBERS:
            raise FetchFailed(f"the compressed body has more than {MAX_MEMBERS} members")
    if data[at:].strip(b"\0"):  # zeros fill up the blocks of a tape
        raise FetchFailed("something follows the compressed body")
    return b"".join(parts)


def _inflate(data: bytes, limit: int) -> bytes:
    """`deflate` is the zlib format (RFC 9110 8.4.1.2); some servers leave out its header and checksum."""
    if len(data) >= 2 and data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0:
        plain, end = _stream(data, 0, zlib.MAX_WBITS, limit)
        if end < len(data):
            raise FetchFailed("something follows the compressed body")
        return plain
    try:
        plain, end = _stream(data, 0, -zlib.MAX_WBITS, limit)
    except FetchFailed:
        return data
    return plain if end == len(data) else data


def _stream(data: bytes, at: int, bits: int, limit: int) -> tuple[bytes, int]:
    """The compressed stream that begins at `at`, and where it ends."""
    stream = zlib.decompressobj(bits)
    view, parts, room = memoryview(data), list[bytes](), limit + 1
    try:
        while not stream.eof and at < len(data):
            piece = view[at : at + _PIECE]
            parts.append(stream.decompress(piece, room))
            at += len(piece)
            room -= len(parts[-1])
            if not room:
                raise TooLarge(f"the body has more than {limit} bytes once it is unpacked")
    except zlib.error:
        raise FetchFailed("the compressed body is damaged") from None
    if not stream.eof:
        raise FetchFailed("the compressed body ends early")
    return b"".join(parts), at - len(stream.unused_data)
