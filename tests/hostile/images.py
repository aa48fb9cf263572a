"""Sound images of each format, and builders of unsound ones, for the corpus."""

from __future__ import annotations

import dataclasses
import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SEED = 20_261_125
MAX_PIXELS = 1_000_000  # what the bombs exceed; a worker that gets them is told this limit
DECODE, PIXELS, FORMAT = "decode-failed", "too-many-pixels", "unsupported-format"

# the bytes that tell the format; less of them is no image at all
MAGIC = {"jpeg": 3, "png": 8, "gif": 6, "webp": 12, "avif": 12, "bmp": 26, "tiff": 4}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A bad image: its name, its bytes, and the one error code that is right for it."""

    name: str
    data: bytes = dataclasses.field(repr=False)
    code: str


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@functools.cache
def seeds() -> dict[str, bytes]:
    """Small sound images of each format, in the variants that take different ways through a decoder."""
    rng = np.random.default_rng(SEED)
    coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    rgb = Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)
    alpha = rgb.convert("RGBA")
    alpha.putalpha(rgb.convert("L"))
    grey16 = Image.fromarray(np.asarray(rgb.convert("L"), np.uint16) * 257)
    second = rgb.rotate(180)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": saved(rgb, "JPEG"),
        "jpeg-progressive": saved(rgb, "JPEG", progressive=True),
        "jpeg-grey": saved(rgb.convert("L"), "JPEG"),
        "jpeg-cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "jpeg-exif": saved(rgb, "JPEG", exif=exif, icc_profile=bytes(3000), comment=b"x" * 99),
        "png": saved(rgb, "PNG"),
        "png-palette": saved(rgb.convert("P"), "PNG"),
        "png-alpha": saved(alpha, "PNG"),
        "png-16": saved(grey16, "PNG"),
        "gif": saved(rgb, "GIF"),
        "gif-animated": saved(rgb, "GIF", save_all=True, append_images=[second], duration=50),
        "webp-lossy": saved(rgb, "WEBP", quality=80),
        "webp-lossless": saved(rgb, "WEBP", lossless=True),
        "webp-alpha": saved(alpha, "WEBP", quality=80, exif=exif),
        "webp-animated": saved(rgb, "WEBP", save_all=True, append_images=[second], duration=50),
        "avif": saved(rgb, "AVIF", quality=60, speed=10, max_threads=1),
        "bmp": saved(rgb, "BMP"),
        "bmp-palette": saved(rgb.convert("P"), "BMP"),
        "tiff": saved(rgb, "TIFF"),
        "tiff-lzw": saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": saved(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": saved(rgb, "TIFF", compression="jpeg"),
    }


def family(name: str) -> str:
    return name.partition("-")[0]


# ── builders ─────────────────────────────────────────────────────────────────────────────────────────────


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG_END = png_chunk(b"IEND", b"")


def png(width: int, height: int, data: bytes, *between: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header says what it is told to; `data` is what its IDAT holds, packed."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *between, png_chunk(b"IDAT", data), PNG_END])


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(d)) + d + b"\0" * (len(d) & 1) for kind, d in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(
        3, "little"
    )


def gif(width: int, height: int, *blocks: bytes, frame: tuple[int, int, int, int] | None = None) -> bytes:
    x, y, w, h = frame or (0, 0, width, height)
    return b"".join(
        [b"GIF89a", struct.pack("<HHBBB", width, height, 0x80, 0, 0), bytes(6), *blocks, b"\x2c",
         struct.pack("<HHHHB", x, y, w, h, 0), b"\x02\x02\x4c\x01\x00\x3b"]
    )  # fmt: skip


def tiff(*entries: tuple[int, int, int, int], data: bytes = b"", head: bytes = b"II*\0") -> bytes:
    """One directory of (tag, type, count, value) at byte 8, then `data`."""
    order = "<" if head[:1] == b"I" else ">"
    directory = b"".join(struct.pack(order + "HHII", *entry) for entry in sorted(entries))
    return head + struct.pack(order + "IH", 8, len(entries)) + directory + bytes(4) + data


def tiff_picture(
    width: int, height: int, compression: int, data: bytes, *more: tuple[int, int, int, int]
) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
            (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(data)), *more]  # fmt: skip
    at = 8 + 2 + 12 * (len(tags) + 1) + 4
    return tiff(*tags, (273, 4, 1, at), data=data)


def bmp(width: int, height: int, bits: int = 24, data: bytes = b"", compression: int = 0) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + head + data


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def frame_header(data: bytes) -> int:
    """Where a JPEG's frame header begins, with its marker."""
    at = 2
    while not 0xC0 <= data[at + 1] <= 0xC2:
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return at


def jpeg_of(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header says another size."""
    at = frame_header(data)
    return patched(data, at + 5, struct.pack(">HH", height, width))


def avif_of(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"ispe")
    return patched(data, at + 8, struct.pack(">II", width, height))
