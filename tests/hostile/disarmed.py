"""Sound pictures that carry a trap in what no pixel needs: they must be decoded as if it were not there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.hostile.images import png, png_chunk, riff, saved, seeds, vp8x


def disarmed() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each."""
    sound = seeds()
    bomb = zlib.compress(bytes(64 * 1024 * 1024), 9)  # 64 kB that unpack to 64 MB
    rows = zlib.compress(bytes(48 * (1 + 64 * 3)))
    for kind, data in (
        (b"zTXt", b"Comment\0\0" + bomb),
        (b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        (b"iCCP", b"profile\0\0" + bomb),
        (b"tEXt", b"Comment\0" + b"x" * 1_500_000),
        (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(99)),
    ):
        yield f"png-{kind.decode()}", png(64, 48, rows, png_chunk(kind, data))
    yield "png-texts", png(64, 48, rows, png_chunk(b"tEXt", b"a\0b") * 60_000)
    jpeg = sound["jpeg"]
    for marker, data in (
        (0xE1, b"Exif\0\0"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
        (0xE2, b"ICC_PROFILE\0"),
    ):
        segment = b"\xff" + bytes([marker]) + struct.pack(">H", 2 + 65_000) + data.ljust(65_000, b"\xff")
        yield f"jpeg-{marker:x}-{data[:4].hex()}", jpeg[:2] + segment * 25 + jpeg[2:]
    loop = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    yield "jpeg-exif-loop", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(loop)) + loop + jpeg[2:]
    yield "jpeg-trailing", jpeg + b"\xff\xda" * 5_000 + b"<script>alert(1)</script>"
    frame = sound["webp-lossy"][12:]
    traps = [(b"ICCP", bytes(900_000)), (b"EXIF", b"\xff" * 400_000), (b"XMP ", b"<" * 400_000)]
    data = riff(vp8x(64, 48, 0x2C), traps[0])[12:] + frame + riff(*traps[1:])[12:]
    yield "webp-metadata", b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data
    comment = b"\x21\xfe\xff" + b"x" * 255 + b"\0"
    yield (
        "gif-comments",
        sound["gif"][:13] + sound["gif"][13 : 13 + 768] + comment * 3_000 + sound["gif"][781:],
    )
    frames = [Image.new("RGB", (64, 48), (shade % 256, 99, shade // 2)) for shade in range(300)]
    yield "gif-frames", saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "webp-frames", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:60])
    yield "tiff-pages", saved(frames[0], "TIFF", save_all=True, append_images=frames[1:100])
