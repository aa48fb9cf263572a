"""Images that end too early, at every structural point of their containers."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.hostile.images import DECODE, FORMAT, MAGIC, Case, family, seeds


def _jpeg_points(data: bytes) -> Iterator[int]:
    at = 2
    while at < len(data) - 2:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        yield from (at, at + 2, at + 4, at + 2 + length // 2)
        at += 2 + length
        if marker == 0xDA:  # the scan's data: every eighth of it
            end = at
            while not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
                end += 1
            yield from (at + (end - at) * i // 8 for i in range(8))
            at = end


def _png_points(data: bytes) -> Iterator[int]:
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        yield from (at, at + 4, at + 8, at + 8 + length // 4, at + 8 + length // 2, at + 8 + length)
        at += 12 + length


def _gif_points(data: bytes) -> Iterator[int]:
    yield from (6, 10, 13)
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    yield from (13 + (at - 13) // 2, at)
    while data[at] == 0x21:
        at += 2
        while length := data[at]:
            yield at
            at += 1 + length
        at += 1
    yield from (at, at + 1, at + 5, at + 9)
    at += 10 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0)
    yield from (at, at + 1)
    at += 1
    while length := data[at]:  # of the first frame only: nothing else is decoded
        yield from (at, at + 1 + length // 2)
        at += 1 + length


def _riff_points(data: bytes, start: int = 12, end: int | None = None) -> Iterator[int]:
    at, end = start, len(data) if end is None else end
    while at + 8 <= end:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield from (at, at + 4, at + 8, *(at + 8 + length * i // 8 for i in range(1, 8)))
        at += 8 + length + (length & 1)


def _box_points(data: bytes) -> Iterator[int]:
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        yield from (at + 4, at + 8, *(at + length * i // 12 for i in range(1, 12)), at + length)
        at += length


def _bmp_points(data: bytes) -> Iterator[int]:
    start = int.from_bytes(data[10:14], "little")
    yield from (2, 10, 14, 18, 26, 30, 34, 46, 54, start)
    yield from (start + (len(data) - start) * i // 16 for i in range(1, 16))


def _tiff_points(data: bytes) -> Iterator[int]:
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    yield from (4, start, start + 2, *(start + 2 + 12 * i for i in range(1, count + 1)))
    yield from (len(data) * i // 16 for i in range(1, 16))


POINTS = {
    "jpeg": _jpeg_points, "png": _png_points, "gif": _gif_points, "webp": _riff_points, "avif": _box_points,
    "bmp": _bmp_points, "tiff": _tiff_points,
}  # fmt: skip


def pixels_end(name: str, data: bytes) -> int:
    """Where the data of the picture that is decoded ends; what is cut behind it harms nobody."""
    kind = family(name)
    if kind == "jpeg":
        return data.rindex(b"\xff\xd9")
    if kind == "png":
        at = data.rindex(b"IDAT") - 4
        return at + 8 + int.from_bytes(data[at : at + 4]) - 4  # less zlib's checksum
    if kind == "gif":
        *_, last = _gif_points(data)
        return last
    return len(data)


def truncated() -> Iterator[Case]:
    """Each seed, cut at every structural point, one byte before it and one behind it."""
    for name, data in seeds().items():
        points = {p + d for p in POINTS[family(name)](data) for d in (-1, 0, 1)}
        for cut in sorted(p for p in points if 0 < p < pixels_end(name, data)):
            code = FORMAT if cut < MAGIC[family(name)] else DECODE
            yield Case(f"cut/{name}-{cut}", data[:cut], code)
