"""Image files as bytes: which format they are of, and what in them a decoder should not see.

Nothing here decodes. Pillow parses metadata in Python, and some of that costs memory or time out of all
proportion (a profile of 16 MB, a million chunks, thousands of empty scans). So containers are walked here
first, with counted steps, and only what pixels depend on is handed on.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Callable

from imgclust.errors import DecodeFailed, UnsupportedFormat

# Each bound is far above what real files hold, and low enough that reaching it costs milliseconds.
MAX_JPEG_SEGMENTS = 4_096  # before the first scan; a profile of 16 MB takes 255
MAX_JPEG_SCANS = 100  # progressive files of real encoders hold 3 to 20; each costs a pass over all blocks
MAX_PNG_CHUNKS = 65_536  # 8 KB each, as libpng writes them, make 512 MB
MAX_GIF_BLOCKS = 10_000  # before the first frame
MAX_TIFF_ENTRIES = 512  # real files hold 10 to 60
MAX_TIFF_METADATA = 16 * 1024 * 1024  # bytes of numbers, and of bytes beyond the file's own size
MAX_EXIF_ENTRIES = 512

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "HEIF")

HEIF_HINT = "pip install 'imgclust[heif]'"

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHERS = {
    b"%PDF": "a PDF", b"<svg": "an SVG drawing", b"<?xm": "XML or SVG", b"8BPS": "a Photoshop file",
    b"<!DO": "a web page", b"<htm": "a web page", b"\0\0\1\0": "an icon (ICO)", b"\x1aE\xdf\xa3": "a video",
    b"\xff\x0a": "JPEG XL", b"\0\0\0\x0c": "JPEG 2000 or JPEG XL", b"PK\3\4": "a ZIP archive",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A file that may be handed to its decoder.

    Attributes:
        data: the file, without the metadata that no pixel needs.
        orientation: EXIF orientation, 1 to 8.
        size: width and height in pixels where the container states them and the decoder would allocate
            before it reports them; None where the decoder reports them early enough.
    """

    data: bytes
    orientation: int = 1
    size: tuple[int, int] | None = None


def sniff(data: bytes) -> str:
    """The format's name by the first bytes.

    Raises:
        UnsupportedFormat: none of `FORMATS`.
    """
    head = bytes(data[:32])
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[4:8] == b"ftyp":
        return _isobmff(data)
    if head[:2] == b"BM" and len(data) >= 26:
        return "BMP"
    if head[:4] in _TIFF_MAGIC:
        return "TIFF"
    raise UnsupportedFormat(_unknown(head))


def _unknown(head: bytes) -> str:
    if not head:
        return "the file is empty"
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            return f"this is {name}; supported formats: {', '.join(FORMATS)}"
    return f"not an image of a known format (begins with {head[:8].hex(' ')}); read: {', '.join(FORMATS)}"


def _isobmff(data: bytes) -> str:
    """AVIF and HEIF share a container; the brands, of which the major one comes first, tell them apart."""
    (length,) = struct.unpack_from(">I", data)
    box = bytes(data[: min(length, 256)])
    brands = [box[8:12], *(box[i : i + 4] for i in range(16, len(box) - 3, 4))]
    if any(b in _AVIF_BRANDS for b in brands):
        return "AVIF"
    if any(b in _HEIF_BRANDS for b in brands):
        return "HEIF"
    raise UnsupportedFormat(f"a video or another ISO media file (brand {brands[0]!a}), not an image")


def prepare(data: bytes, format: str) -> Prepared:
    """Walk the container, refuse what is built to exhaust a decoder, cut metadata away.

    Raises:
        DecodeFailed: more segments, scans, chunks or metadata than any honest file holds, or cut short.
    """
    walk = _WALKS.get(format)
    try:
        return walk(data) if walk else Prepared(data)
    except (struct.error, IndexError):
        raise DecodeFailed(f"the {format} file ends within its header") from None


# ---------------------------------------------------------------------------------------------- JPEG

_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def _jpeg(data: bytes) -> Prepared:
    """Keep tables and frame; of the APP segments only JFIF's and Adobe's, which define the colours."""
    kept, seen, orientation, at = [data[:2]], set(), 1, 2
    for _ in range(MAX_JPEG_SEGMENTS):
        at = data.find(b"\xff", at)
        while at >= 0 and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        if at < 0:
            break
        marker = data[at + 1]
        if marker in _STANDALONE or marker == 0:
            at += 2
            continue
        if marker == 0xDA:
            _count_scans(data, at)
            return Prepared(b"".join([*kept, data[at:]]), orientation)
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0" and orientation == 1:
            orientation = exif_orientation(data[at + 10 : end])
        application = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not application or (marker in (0xE0, 0xEE) and marker not in seen):
            kept.append(data[at:end])
            seen.add(marker)
        at = end
    else:
        raise DecodeFailed(f"the JPEG has more than {MAX_JPEG_SEGMENTS} segments before its first scan")
    raise DecodeFailed("the JPEG file ends before its first scan")


def _count_scans(data: bytes, at: int) -> None:
    """Refuse a JPEG whose scans, empty ones too, would take minutes.

    Counting the marker's bytes anywhere is quick and never too low; only above the bound is it worth to walk.
    """
    if data.count(b"\xff\xda", at) <= MAX_JPEG_SCANS:
        return
    scans = 0
    while match := _NEXT_MARKER.search(data, at):
        marker, at = data[match.start() + 1], match.end()
        if marker == 0xD9:
            return
        scans += marker == 0xDA
        if scans > MAX_JPEG_SCANS:
            raise DecodeFailed(f"the JPEG has more than {MAX_JPEG_SCANS} scans")
        at += int.from_bytes(data[at : at + 2])


# ----------------------------------------------------------------------------------------------- PNG

_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def _png(data: bytes) -> Prepared:
    """Keep the critical chunks and transparency; colour, text and animation chunks are left out."""
    kept, orientation, at = [data[:8]], 1, 8
    for _ in range(MAX_PNG_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind in _PNG_PIXELS:
            kept.append(data[at:end])
        elif kind == b"eXIf":
            orientation = exif_orientation(data[at + 8 : end - 4])
        at = end
        if kind == b"IEND" or at >= len(data):
            return Prepared(b"".join(kept), orientation)
    raise DecodeFailed(f"the PNG has more than {MAX_PNG_CHUNKS} chunks")


# ---------------------------------------------------------------------------------------------- WebP


def _webp(data: bytes) -> Prepared:
    """The canvas size (libwebp allocates it when the file is opened) and the orientation."""
    kind = data[12:16]
    if kind == b"VP8X":
        size = (int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        size = (width & 0x3FFF, height & 0x3FFF)
    else:
        raise DecodeFailed(f"a WebP file cannot begin with a chunk {kind!a}")
    return Prepared(data, _webp_orientation(data) if kind == b"VP8X" else 1, size)


def _webp_orientation(data: bytes) -> int:
    at = 12
    for _ in range(1_000):  # frames of an animation come before EXIF; beyond so many it stays unread
        if at + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            return exif_orientation(data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0"))
        at += 8 + length + (length & 1)
    return 1


# ------------------------------------------------------------------------------- GIF, TIFF and AVIF


def _gif(data: bytes) -> Prepared:
    """Refuse endless comments before the first frame (Pillow joins them one by one)."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    blocks = 0
    while data[at] == 0x21:
        at += 2
        while length := data[at]:
            at += 1 + length
            blocks += 1
            if blocks > MAX_GIF_BLOCKS:
                raise DecodeFailed(f"the GIF has more than {MAX_GIF_BLOCKS} blocks before its first frame")
        at += 1
        blocks += 1
    return Prepared(data)


_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
                    16: 8, 17: 8, 18: 8}  # fmt: skip


_TIFF_BYTES = (1, 2, 6, 7)  # BYTE, ASCII, SBYTE, UNDEFINED

# EXIF, GPS and interoperability directories: Pillow reads them when it loads the picture
_TIFF_DIRECTORIES = (0x8769, 0x8825, 0xA005)


def _tiff(data: bytes) -> Prepared:
    """Bound the directories: Pillow reads the data of each entry, and many name the same bytes.

    Plain bytes (layers, previews and notes of programs) are copied once, so what a file has is no harm;
    numbers become Python's, which are ten times as large.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count_format, entry_format = (order + "Q", order + "HHQQ") if big else (order + "H", order + "HHII")
    starts = list(struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4))
    entries = plain = numbers = 0
    for start in starts:  # grows by what the directories name
        (count,) = struct.unpack_from(count_format, data, start)
        entries += count
        if entries > MAX_TIFF_ENTRIES:
            raise DecodeFailed(
                f"the TIFF has {entries} directory entries, at most {MAX_TIFF_ENTRIES} are read"
            )
        start += struct.calcsize(count_format)
        for index in range(count):
            at = start + index * struct.calcsize(entry_format)
            tag, kind, n, value = struct.unpack_from(entry_format, data, at)
            if kind in _TIFF_BYTES:
                plain += n
            else:
                numbers += n * _TIFF_TYPE_BYTES.get(kind, 1)
            if tag in _TIFF_DIRECTORIES:
                starts.append(value)
    if (total := numbers + max(0, plain - len(data))) > MAX_TIFF_METADATA:
        raise DecodeFailed(
            f"the TIFF's directories name {total} bytes more than it has, or of numbers; "
            f"at most {MAX_TIFF_METADATA} are read"
        )
    return Prepared(data)  # Pillow turns TIFFs upright itself


_AVIF_EXIF_ITEM = re.compile(rb"(infe.{8,10})Exif", re.DOTALL)


def _avif(data: bytes) -> Prepared:
    """Make the decoder pass over EXIF, which Pillow would parse; the container's own rotation counts."""
    return Prepared(_AVIF_EXIF_ITEM.sub(rb"\1skip", data))


_WALKS: dict[str, Callable[[bytes], Prepared]] = {
    "JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "AVIF": _avif, "TIFF": _tiff,
}  # fmt: skip


def exif_orientation(exif: bytes) -> int:
    """EXIF orientation (1 to 8) of a bare EXIF block; 1 where it is missing or damaged, as browsers do."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(exif[:4]))
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for index in range(min(count, MAX_EXIF_ENTRIES)):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * index)
            if tag == 0x0112 and kind == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
