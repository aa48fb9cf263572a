"""JPEG → pixels with libjpeg-turbo's own scaling, by eighths (simplejpeg), where Pillow can only halve.

Strict: a file that the library warns of is left to Pillow, which decides. Cut files are refused by both; one
that lacks nothing but its end marker is a picture.
"""

from __future__ import annotations

import re

import simplejpeg
from PIL import Image

from imgclust.errors import TooManyPixels
from imgclust.types import Pixels

_END = b"\xff\xd9"
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_COLOURS = ("YCbCr", "Gray", "RGB")  # not CMYK, which would have to be converted by hand
MIN_FACTOR = 1.3  # 7/8 is no faster than full size


def load(data: bytes, shortest: int, max_pixels: int) -> tuple[Image.Image, tuple[int, int]] | None:
    """Decode a JPEG in RGB, perhaps scaled down; None: Pillow has to decide about this file.

    Args:
        data: the file, without metadata.
        shortest: pixels that the shorter side keeps at least, where it has them; 0: do not scale.
        max_pixels: width × height of the original.

    Returns:
        The image, and the size of the original.

    Raises:
        TooManyPixels: judged from the header.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in _COLOURS:
            return None
        if width * height > max_pixels:
            raise TooManyPixels(f"{width} x {height} pixels, at most {max_pixels} are decoded")
        pixels = _decoded(data, shortest)
    except ValueError:
        return None
    return Image.fromarray(pixels), (width, height)


def completed(data: bytes) -> bytes:
    """A JPEG that lacks nothing but its end marker, with that; every other one as it is."""
    bare = data.rstrip(b"\0")
    if bare.endswith(_END) or not is_covered(data):
        return data
    for whole in (data + _END, bare + _END):
        try:
            colours = simplejpeg.decode_jpeg_header(whole)[2]
            simplejpeg.decode_jpeg(whole, "RGB" if colours in _COLOURS else "CMYK")
            return whole
        except ValueError:
            continue
    return data


def is_covered(data: bytes) -> bool:
    """Whether a JPEG has scans for every coefficient of every component of its frame, to the last bit.

    Whether the scans themselves are complete is another question.
    """
    missing: dict[int, set[int]] = {}
    at = 2
    while match := _NEXT_MARKER.search(data, at):
        marker, at = data[match.start() + 1], match.end()
        segment = data[at + 2 : at + int.from_bytes(data[at : at + 2])]
        if marker in _FRAMES:
            missing = {component: set(range(64)) for component in segment[6::3]}
        elif marker == 0xDA and len(segment) >= 6:
            end = 1 + 2 * segment[0]
            first, last, precision = segment[end : end + 3].ljust(3, b"\xff")
            if precision & 0x0F == 0:  # else a later scan refines it
                for component in segment[1:end:2]:
                    missing.get(component, set()).difference_update(range(first, last + 1))
        if marker != 0x01:
            at += len(segment) + 2
    return bool(missing) and not any(missing.values())


def _decoded(data: bytes, shortest: int) -> Pixels:
    smaller = {"min_height": shortest, "min_width": shortest, "min_factor": MIN_FACTOR} if shortest else {}
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", **smaller)
    return pixels
