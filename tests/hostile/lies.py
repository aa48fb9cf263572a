"""Headers that lie about what follows them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from tests.hostile.images import (
    DECODE,
    PNG_END,
    Case,
    bmp,
    frame_header,
    gif,
    jpeg_of,
    patched,
    png,
    riff,
    seeds,
    tiff_picture,
    vp8x,
)


def lies() -> Iterator[Case]:
    """Sizes, offsets, lengths and types that the data behind them does not bear out."""
    sound = seeds()
    packed = zlib.compress(bytes(48 * (1 + 64 * 3)))
    for width, height in ((65, 48), (1000, 1000), (1250, 799)):
        yield Case(f"lie/png-size-{width}x{height}", png(width, height, packed), DECODE)
    for width, height in ((0, 48), (64, 0), (0, 0)):
        yield Case(f"lie/png-none-{width}x{height}", png(width, height, packed), DECODE)
        yield Case(f"lie/bmp-none-{width}x{height}", bmp(width, height, data=bytes(9216)), DECODE)
        yield Case(f"lie/tiff-none-{width}x{height}", tiff_picture(width, height, 1, bytes(3072)), DECODE)
        yield Case(f"lie/jpeg-none-{width}x{height}", jpeg_of(sound["jpeg"], width, height), DECODE)
    for depth, colour in ((3, 0), (8, 1), (8, 5), (16, 3), (0, 0), (255, 255), (2, 6)):
        yield Case(f"lie/png-mode-{depth}-{colour}", png(64, 48, packed, depth=depth, colour=colour), DECODE)
    for name in ("png", "png-palette", "png-alpha", "png-16"):
        data = sound[name]
        for at, what in ((27, "filter"), (28, "interlace")):
            changed = patched(data, at, b"\x63")
            crc = struct.pack(">I", zlib.crc32(changed[12:29]))
            yield Case(f"lie/{name}-{what}", patched(changed, 29, crc), DECODE)
        yield Case(f"lie/{name}-crc", patched(data, 29, b"\0\0\0\0"), DECODE)
        idat = data.index(b"IDAT")
        yield Case(f"lie/{name}-length", patched(data, idat - 4, bytes(4)), DECODE)
        yield Case(f"lie/{name}-zlib", patched(data, idat + 4, b"\xff\xff"), DECODE)
        yield Case(f"lie/{name}-no-header", data[:8] + data[33:], DECODE)
        yield Case(f"lie/{name}-no-data", data[: idat - 4] + PNG_END, DECODE)
    for name in ("jpeg", "jpeg-progressive", "jpeg-grey", "jpeg-cmyk"):
        data = sound[name]
        frame = frame_header(data)
        for at, value, what in (
            (frame + 4, b"\x0c", "depth"),
            (frame + 9, b"\0", "components"),
            (frame + 9, b"\xff", "components-255"),
            (frame + 11, b"\0", "sampling"),
            (frame + 11, b"\xff", "sampling-15"),
            (frame + 2, b"\0\2", "length"),
            (frame + 1, b"\xc3", "lossless"),
            (frame + 12, b"\x09", "table"),
        ):
            yield Case(f"lie/{name}-{what}", patched(data, at, value), DECODE)
        for marker in (b"\xff\xdb", b"\xff\xc4", b"\xff\xda"):
            at = data.index(marker)
            yield Case(f"lie/{name}-{marker.hex()}-length", patched(data, at + 2, b"\0\0"), DECODE)
            yield Case(f"lie/{name}-{marker.hex()}-long", patched(data, at + 2, b"\xff\xff"), DECODE)
    for length in (0, 4, 2**32 - 1, 2**32 - 10, 2**31):
        for name in ("webp-lossy", "webp-lossless", "webp-alpha"):
            yield Case(
                f"lie/{name}-chunk-{length}", patched(sound[name], 16, struct.pack("<I", length)), DECODE
            )
    for kind in (b"VP8?", b"ALPH", b"ANMF", b"EXIF", b"\0\0\0\0"):
        yield Case(f"lie/webp-first-{kind.hex()}", patched(sound["webp-lossy"], 12, kind), DECODE)
    for width, height in ((10, 10), (65, 48), (999, 999)):  # the canvas and its only frame
        frame = sound["webp-lossy"][12:]
        data = riff(vp8x(width, height)) + frame
        yield Case(
            f"lie/webp-canvas-{width}x{height}", patched(data, 4, struct.pack("<I", len(data) - 8)), DECODE
        )
    for frame in ((0, 0, 0, 0), (5, 5, 0, 9)):
        yield Case(f"lie/gif-frame-{frame}", gif(10, 10, frame=frame), DECODE)
    yield Case("lie/gif-code-size", sound["gif"].replace(b"\x08", b"\x3f"), DECODE)
    yield Case("lie/gif-no-frame", sound["gif"][:13] + bytes(768) + b"\x3b", DECODE)
    for bits in (0, 2, 3, 7, 33, 65_535):
        yield Case(f"lie/bmp-bits-{bits}", bmp(64, 48, bits, bytes(9216)), DECODE)
    for compression in (4, 5, 6, 99):
        yield Case(f"lie/bmp-compression-{compression}", bmp(64, 48, 24, bytes(9216), compression), DECODE)
    for offset in (2**31, 2**32 - 1, 9000):
        yield Case(f"lie/bmp-offset-{offset}", patched(sound["bmp"], 10, struct.pack("<I", offset)), DECODE)
    for size in (0, 5, 39, 2**31):
        yield Case(f"lie/bmp-header-{size}", patched(sound["bmp"], 14, struct.pack("<I", size)), DECODE)
    for compression in (2, 3, 4, 5, 6, 7, 8, 34712, 50000, 50001, 9999):
        data = tiff_picture(64, 48, compression, b"\xff" * 99)
        yield Case(f"lie/tiff-compression-{compression}", data, DECODE)
    for offset in (2**31, 2**32 - 1, 99_999):
        yield Case(
            f"lie/tiff-directory-{offset}", patched(sound["tiff"], 4, struct.pack("<I", offset)), DECODE
        )
        data = tiff_picture(64, 48, 1, bytes(64 * 48))
        strip = data.index(struct.pack("<HHI", 273, 4, 1)) + 8
        yield Case(f"lie/tiff-strip-{offset}", patched(data, strip, struct.pack("<I", offset)), DECODE)
    for length in (7, 2**32 - 1):
        yield Case(f"lie/avif-box-{length}", patched(sound["avif"], 32, struct.pack(">I", length)), DECODE)
    for box in (b"meta", b"iloc", b"ispe", b"av1C", b"ipma", b"pitm", b"hdlr", b"ipco"):
        yield Case(f"lie/avif-no-{box.decode()}", sound["avif"].replace(box, b"free"), DECODE)
