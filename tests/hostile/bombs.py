"""Bombs: little to send, much to decode."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.hostile.images import (
    DECODE,
    PIXELS,
    Case,
    avif_of,
    bmp,
    gif,
    jpeg_of,
    png,
    png_chunk,
    riff,
    saved,
    seeds,
    tiff_picture,
    vp8x,
)

SIZES = ((2001, 2000), (65_000, 100), (100, 65_000), (16_383, 16_383), (65_535, 65_535))
LARGER = ((2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (1_000_000, 1_000_000))


def bombs() -> Iterator[Case]:
    """Sizes that no memory holds, and containers that would keep a decoder busy for minutes."""
    yield from _sizes()
    yield from _endless_containers()
    packed = zlib.compress(bytes(1_000 * (1 + 3 * 10_000)), 9)
    yield Case("bomb/png-real", png(10_000, 1_000, packed), PIXELS)
    yield Case("bomb/png-interlaced", saved(Image.new("1", (1_200, 1_000)), "PNG"), PIXELS)
    yield Case("bomb/png-16", saved(Image.new("I;16", (1_200, 1_000)), "PNG"), PIXELS)
    yield Case("bomb/gif-real", saved(Image.new("P", (1_200, 1_000)), "GIF"), PIXELS)
    yield Case("bomb/webp-real", saved(Image.new("RGB", (1_200, 1_000)), "WEBP", lossless=True), PIXELS)
    yield Case("bomb/webp-lossy", saved(Image.new("RGB", (1_200, 1_000)), "WEBP", method=0), PIXELS)
    yield Case("bomb/avif-real", saved(Image.new("RGB", (1_200, 1_000)), "AVIF", speed=10), PIXELS)
    yield Case(
        "bomb/tiff-real", saved(Image.new("L", (1_200, 1_000)), "TIFF", compression="tiff_lzw"), PIXELS
    )
    yield Case("bomb/tiff-fax", saved(Image.new("1", (1_200, 1_000)), "TIFF", compression="group4"), PIXELS)
    for progressive in (False, True):
        data = saved(Image.new("L", (1_200, 1_000)), "JPEG", progressive=progressive)
        yield Case(f"bomb/jpeg-real-{progressive}", data, PIXELS)


def _sizes() -> Iterator[Case]:
    sound = seeds()
    for width, height in SIZES:
        size = f"{width}x{height}"
        for name in ("jpeg", "jpeg-progressive", "jpeg-grey", "jpeg-cmyk"):
            yield Case(f"bomb/{name}-{size}", jpeg_of(sound[name], width, height), PIXELS)
        yield Case(f"bomb/gif-{size}", gif(width, height), PIXELS)
        yield Case(f"bomb/gif-frame-{size}", gif(10, 10, frame=(0, 0, width, height)), PIXELS)
        for depth, colour in ((8, 2), (1, 0), (16, 6), (8, 3)):
            data = png(width, height, zlib.compress(bytes(999)), depth=depth, colour=colour)
            yield Case(f"bomb/png-{depth}-{colour}-{size}", data, PIXELS)
        yield Case(f"bomb/avif-{size}", avif_of(sound["avif"], width, height), _avif_code(width, height))
        yield Case(f"bomb/webp-{size}", riff(vp8x(width, height), (b"VP8 ", bytes(20))), PIXELS)
        yield Case(f"bomb/webp-animation-{size}", riff(vp8x(width, height, 2), (b"ANIM", bytes(6))), PIXELS)
        for bits in (1, 8, 24, 32):
            yield Case(f"bomb/bmp-{bits}-{size}", bmp(width, height, bits), PIXELS)
            yield Case(f"bomb/bmp-{bits}-down-{size}", bmp(width, -height, bits), PIXELS)
        for compression in (1, 4, 5, 7, 8, 32773, 50000):
            data = tiff_picture(width, height, compression, bytes(99))
            yield Case(f"bomb/tiff-{compression}-{size}", data, PIXELS)
    bits = (16_383 - 1) | (16_383 - 1) << 14
    yield Case("bomb/webp-vp8l", riff((b"VP8L", b"\x2f" + struct.pack("<I", bits) + bytes(20))), PIXELS)
    head = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383)
    yield Case("bomb/webp-vp8", riff((b"VP8 ", head + bytes(20))), PIXELS)
    for width, height in LARGER:
        size = f"{width}x{height}"
        yield Case(f"bomb/png-{size}", png(width, height, b""), PIXELS)
        yield Case(f"bomb/bmp-{size}", bmp(width, height), PIXELS)
        yield Case(f"bomb/tiff-{size}", tiff_picture(width, height, 1, b""), PIXELS)
        yield Case(f"bomb/avif-{size}", avif_of(sound["avif"], width, height), DECODE)


def _avif_code(width: int, height: int) -> str:
    return PIXELS if max(width, height) <= 32_768 else DECODE  # libavif does not even read larger ones


def _endless_containers() -> Iterator[Case]:
    sound = seeds()
    jpeg, progressive = sound["jpeg"], sound["jpeg-progressive"]
    for marker in (0xE0, 0xE1, 0xE2, 0xED, 0xFE):
        segments = (b"\xff" + bytes([marker]) + b"\0\2") * 5_000
        yield Case(f"bomb/jpeg-segments-{marker:x}", jpeg[:2] + segments + jpeg[2:], DECODE)
    scan = progressive.index(b"\xff\xda")
    for count in (101, 1_000, 20_000):
        empty = progressive[scan : scan + 2 + int.from_bytes(progressive[scan + 2 : scan + 4])]
        yield Case(f"bomb/jpeg-scans-{count}", progressive[:scan] + empty * count + b"\xff\xd9", DECODE)
    packed = zlib.compress(bytes(64 * 3 * 48 + 48))
    for kind in (b"tEXt", b"gAMA", b"fdAT", b"IDAT", b"zzZz"):
        chunks = png_chunk(kind, b"") * 70_000
        yield Case(f"bomb/png-chunks-{kind.decode()}", png(64, 48, packed, chunks), DECODE)
    for label in (b"\xfe", b"\xf9", b"\x01", b"\xff"):
        block = b"\x21" + label + b"\x01x\x00"
        yield Case(f"bomb/gif-blocks-{label.hex()}", gif(64, 48, block * 20_000), DECODE)
        block = b"\x21" + label + b"\x01x" * 20_000 + b"\x00"
        yield Case(f"bomb/gif-parts-{label.hex()}", gif(64, 48, block), DECODE)
    many = [(40_000 + i, 4, 1, 0) for i in range(600)]
    yield Case("bomb/tiff-entries", tiff_picture(64, 48, 1, bytes(64 * 48), *many), DECODE)
    for kind in (1, 2, 5, 7, 12):
        yield Case(
            f"bomb/tiff-count-{kind}", tiff_picture(64, 48, 1, bytes(64 * 48), (700, kind, 2**31, 8)), DECODE
        )
    same = [(40_000 + i, 7, 100_000, 8) for i in range(300)]
    yield Case("bomb/tiff-same-bytes", tiff_picture(64, 48, 1, bytes(100_000), *same), DECODE)
    for tag in (0x8769, 0x8825):
        yield Case(f"bomb/tiff-loop-{tag:x}", tiff_picture(64, 48, 1, bytes(64 * 48), (tag, 4, 1, 8)), DECODE)
