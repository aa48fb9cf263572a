"""Bytes → pixels, with limits. Loads numpy, Pillow and simplejpeg only: a fetcher process stays small.

The bytes are hostile. Three things keep them in bounds:

1. The content decides the format, and only that format's plugin is called; metadata that no pixel needs
   is cut away before, unread (`imgclust.images.containers`).
2. What an image would cost (pixels, scans, chunks) is judged from its header, before anything is decoded.
3. Whatever Pillow raises is translated at one border, `_translated`.

A codec may still crash or hang: whoever decodes what strangers send does so in a process of its own that
can be replaced, as the worker's fetchers are.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

import numpy as np
from PIL import Image, ImageFile

from imgclust.errors import DecodeError, DecodeFailed, TooManyPixels, UnsupportedFormat
from imgclust.images import containers, jpeg
from imgclust.types import Pixels, Preprocessing

# A JPEG is scaled while it is decoded only as far as its shorter side stays this many times the resize
# length: the reserve leaves the last part of the work to the final, better filter (cosine ≥ 0.99; see tests).
SCALING_RESERVE = 1.5

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),  # not its factory: the first picture of an MPO will do
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "HEIF": ("pillow_heif", "HeifImageFile"),
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Box = tuple[float, float, float, float]  # left, top, right, bottom


HASHED_SIDE = 128  # pixels; a perceptual hash looks at 32 × 32 of them
BLANK = 16  # of 255: a picture whose brightness varies less shows nothing


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What an image may cost.

    Attributes:
        max_pixels: width × height of the original. Decoding takes 4 to 20 bytes of memory a pixel.
        max_bytes: of the file.
    """

    max_pixels: int = 50_000_000
    max_bytes: int = 64 * 1024 * 1024


DEFAULT_LIMITS = Limits()


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as an encoder wants it.

    Attributes:
        pixels: uint8 (size, size, 3), RGB, C-contiguous.
        width, height: of the original, turned upright, in pixels.
        format: one of `containers.FORMATS`.
        hash: of the whole picture, where it was asked for; see `imgclust.images.perceptual`.
    """

    pixels: Pixels
    width: int
    height: int
    format: str
    hash: int | None = None


def decode(
    data: bytes,
    preprocessing: Preprocessing,
    limits: Limits = DEFAULT_LIMITS,
    *,
    shrink_on_load: bool = True,
    hashed: bool = False,
) -> Decoded:
    """Decode an image, turn it upright, lay it on white, resize and crop it as the encoder asks.

    What is transparent and would leave a blank picture on white, as white lines do, is laid on black.

    The first frame of an animation and the first page of a TIFF count. Colour profiles are not applied
    (open_clip does not either).

    Args:
        data: the file's bytes; the content decides the format, not a name.
        preprocessing: of the encoder, `encoder.identity.preprocessing`.
        limits: judged before anything is decoded.
        shrink_on_load: let libjpeg scale large JPEGs by eighths while it decodes (two to five times faster
            for photographs; the embedding's cosine to the full path stays ≥ 0.99).
        hashed: compute the perceptual hash of the whole picture, too.

    Raises:
        UnsupportedFormat: not an image, or of a format that is not on the list.
        TooManyPixels: above `limits.max_pixels`.
        DecodeFailed: damaged, truncated, or built to exhaust the decoder.
    """
    with _translated():
        shortest = preprocessing.resize if preprocessing.mode == "shortest" else preprocessing.size
        picture = _load(data, limits, shortest if shrink_on_load else None)
        image = _rgb(picture.image)
        box = _turned_back(_crop_box(picture.size, preprocessing), picture.size, picture.orientation)
        across, down = image.width / picture.raw_size[0], image.height / picture.raw_size[1]
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        side = (preprocessing.size, preprocessing.size)
        small = image.resize(side, _FILTERS[preprocessing.interpolation], box=box)
        pixels = np.array(_turned(small, picture.orientation))  # a copy: contiguous and writable
        digest = _hash_of(_turned(_reduced(image), picture.orientation)) if hashed else None
    return Decoded(pixels, *picture.size, picture.format, digest)


def thumbnail(data: bytes, side: int = 128, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """A small upright picture on white for a report: WebP, the whole image within `side` × `side` pixels.

    Raises:
        DecodeError: as `decode`.
    """
    with _translated():
        picture = _load(data, limits, side)
        image = _rgb(picture.image)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        _turned(image, picture.orientation).save(file, "WEBP", quality=75, method=4)
    return file.getvalue()


@dataclasses.dataclass(frozen=True, slots=True)
class _Picture:
    """A loaded image, perhaps shrunk, not yet turned. `raw_size`: before it was shrunk."""

    image: Image.Image
    raw_size: tuple[int, int]
    orientation: int
    format: str

    @property
    def size(self) -> tuple[int, int]:
        """Of the original, upright."""
        width, height = self.raw_size
        return (height, width) if self.orientation >= 5 else (width, height)


def _load(data: bytes, limits: Limits, shortest: int | None) -> _Picture:
    if len(data) > limits.max_bytes:
        raise DecodeFailed(f"the file has {len(data)} bytes, at most {limits.max_bytes} are decoded")
    format = containers.sniff(data)
    prepared = containers.prepare(data, format)
    if prepared.size is not None:
        _check_pixels(prepared.size, limits)
    least = int((shortest or 0) * SCALING_RESERVE)
    data = prepared.data
    if format == "JPEG":
        if found := jpeg.load(data, least, limits.max_pixels):
            return _Picture(*found, prepared.orientation, format)
        if (whole := jpeg.completed(data)) != data:
            data = whole
            if found := jpeg.load(data, least, limits.max_pixels):
                return _Picture(*found, prepared.orientation, format)
    image = _plugin(format)(io.BytesIO(data))
    _check_pixels(image.size, limits)
    raw_size = image.size
    if format == "JPEG" and least:
        image.draft(None, (least, least))
    image.load()
    if format == "TIFF":
        raw_size = image.size  # Pillow has turned it
    orientation = prepared.orientation
    if format in ("AVIF", "HEIF"):  # bounded by the plugin: the container's own rotation, given as EXIF
        orientation = containers.exif_orientation(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
    return _Picture(image, raw_size, orientation, format)


def _plugin(format: str) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    module, name = _PLUGINS[format]
    try:
        plugin: Callable[[io.BytesIO], ImageFile.ImageFile] = getattr(import_module(module), name)
    except ImportError:
        raise UnsupportedFormat(
            f"HEIC/HEIF needs the optional package pillow-heif: {containers.HEIF_HINT}"
        ) from None
    return plugin


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width <= 0 or height <= 0:
        raise DecodeFailed(f"the image has no pixels ({width} x {height})")
    if width * height > limits.max_pixels:
        raise TooManyPixels(f"{width} x {height} pixels, at most {limits.max_pixels} are decoded")


def _reduced(image: Image.Image) -> Image.Image:
    """A square of the whole picture, small enough that turning and hashing it cost nothing."""
    return image.resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _hash_of(image: Image.Image) -> int:
    from imgclust.images.perceptual import perceptual_hash  # loads scipy, which a fetcher has no room for

    return perceptual_hash(image)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode → RGB, transparency laid on white, or on black where nothing would be left on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        laid = _laid_on(image, "white")
        if _is_blank(laid) and not _is_blank(dark := _laid_on(image, "black")):
            return dark
        return laid
    return image.convert("RGB")


def _laid_on(image: Image.Image, colour: str) -> Image.Image:
    background = Image.new("RGB", image.size, colour)
    background.paste(image, mask=image.getchannel("A"))
    return background


def _is_blank(image: Image.Image) -> bool:
    values = np.asarray(image.convert("L"))
    return int(values.max()) - int(values.min()) < BLANK


def _eight_bit(image: Image.Image) -> Image.Image:
    """One wide channel → 8 bits.

    16-bit values are scaled by their full range, floats within 0..1 by 255; other ranges (measurements,
    elevation models) carry no white point, so they are stretched from their minimum to their maximum.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scale = 255.0 / (high - low) if high > low else 0.0
    return Image.fromarray(np.rint((values - low) * scale).astype(np.uint8))


def _crop_box(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """The part of an upright picture that the encoder sees, in the picture's own pixels.

    The arithmetic, with its roundings, is torchvision's `Resize` and `CenterCrop`. Resampling that box alone
    gives the same pixels as resizing all and cropping then, and a picture of 50,000,000 × 1 costs no more.
    """
    width, height = size
    if preprocessing.mode == "squash":
        return (0, 0, width, height)
    short, long = min(size), max(size)
    resized_long = int(preprocessing.resize * long / short)
    across, down = (
        (preprocessing.resize, resized_long) if width <= height else (resized_long, preprocessing.resize)
    )
    left, top = (round((full - preprocessing.size) / 2) for full in (across, down))
    x, y = width / across, height / down
    return (left * x, top * y, (left + preprocessing.size) * x, (top + preprocessing.size) * y)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _turned_back(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """A box in an upright picture of `size` → the same box before the picture was turned."""
    left, top, right, bottom = box
    width, height = size
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)


@contextmanager
def _translated() -> Iterator[None]:
    """The one border at which foreign exceptions become this package's."""
    try:
        yield
    except DecodeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(ascii(str(error))) from None
    except MemoryError:
        raise DecodeFailed("the decoder asked for more memory than there is") from None
    except Exception as error:  # Pillow's plugins raise nearly every built-in exception for some bad file
        raise DecodeFailed(f"{type(error).__name__}: {ascii(str(error))[:200]}") from error
