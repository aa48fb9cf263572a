"""Bytes → pixels: all formats and orientations, the encoder's preprocessing, and no harm by hostile files."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from imgclust.errors import DecodeError, DecodeFailed, TooManyPixels, UnsupportedFormat
from imgclust.images import containers
from imgclust.images import decode as module
from imgclust.images.decode import Limits, decode, thumbnail
from imgclust.types import Preprocessing

P = Preprocessing(size=32, resize=32)
SQUASH = Preprocessing(size=32, resize=32, mode="squash")


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def quadrants(width: int = 64, height: int = 48) -> Image.Image:
    """Red, green, blue and grey quarters: any turn or flip shows."""
    image = Image.new("RGB", (width, height), (120, 120, 120))
    image.paste((250, 10, 10), (0, 0, width // 2, height // 2))
    image.paste((10, 250, 10), (width // 2, 0, width, height // 2))
    image.paste((10, 10, 250), (0, height // 2, width // 2, height))
    return image


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


LOSSLESS = {
    "PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True},
}  # fmt: skip
LOSSY = {"JPEG": {"quality": 95}, "AVIF": {"quality": 90}, "GIF": {}}


@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY])
def test_formats(format: str) -> None:
    """Every format on the list gives the picture that was put in, with its size and its name."""
    options = LOSSLESS.get(format, LOSSY.get(format, {}))
    decoded = decode(encoded(quadrants(), format, **options), SQUASH)
    assert (decoded.format, decoded.width, decoded.height) == (format, 64, 48)
    assert decoded.pixels.shape == (32, 32, 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    expected = np.array(quadrants().resize((32, 32), Image.Resampling.BICUBIC))
    difference = np.abs(decoded.pixels.astype(int) - expected)
    assert difference.max() == 0 if format in LOSSLESS else difference.mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("preprocessing", [P, SQUASH, Preprocessing(size=20, resize=31)])
def test_orientation(format: str, orientation: int, preprocessing: Preprocessing) -> None:
    """A turned picture gives the very pixels of the upright one, cropped at the same place."""
    options = LOSSLESS.get(format, {"quality": 100, "subsampling": 0})
    turned = encoded(quadrants(61, 40), format, exif=exif(orientation), **options)
    image = Image.open(io.BytesIO(turned))
    upright = ImageOps.exif_transpose(image).convert("RGB")
    expected = decode(encoded(upright, "PNG"), preprocessing)
    decoded = decode(turned, preprocessing)
    assert (decoded.width, decoded.height) == upright.size
    assert np.abs(decoded.pixels.astype(int) - expected.pixels).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    margin=st.integers(0, 9),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    seed=st.integers(0, 99),
)
def test_same_pixels_as_torchvision(
    width: int, height: int, margin: int, interpolation: str, seed: int
) -> None:
    """Resampling only the crop gives what torchvision's Resize and CenterCrop give, for any size."""
    from torchvision import transforms

    # so far from black and white, that nothing is clipped between the passes over columns and rows
    noise = np.random.default_rng(seed).integers(64, 192, (height, width, 3), np.uint8)
    image = Image.fromarray(noise)
    reference = transforms.Compose(
        [
            transforms.Resize(32 + margin, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(32),
        ]
    )(image)
    decoded = decode(encoded(image, "PNG"), Preprocessing(32, 32 + margin, interpolation))
    difference = np.abs(decoded.pixels.astype(int) - np.array(reference))
    # Pillow may take rows before columns in one of the two, so roundings differ here and there (0.34 in the
    # mean at worst, of 9,000); a box that is off by a tenth of a pixel gives 1
    assert difference.max() <= 2
    assert difference.mean() < 0.5


def one_colour(data: bytes) -> list[int]:
    pixels = decode(data, P).pixels.reshape(-1, 3).astype(int)
    assert np.ptp(pixels, axis=0).max() <= 2
    return [int(v) for v in pixels[0]]


def test_transparency_is_laid_on_white() -> None:
    """Alpha in RGBA, LA, palettes and tRNS chunks shows white behind, not the hidden colour."""
    half = Image.new("RGBA", (40, 40), (255, 0, 0, 128))
    assert one_colour(encoded(half, "PNG")) == pytest.approx([255, 127, 127], abs=2)
    assert one_colour(encoded(Image.new("LA", (40, 40), (0, 0)), "PNG")) == [255] * 3
    assert one_colour(encoded(half.copy(), "WEBP", lossless=True)) == pytest.approx([255, 127, 127], abs=2)
    assert one_colour(encoded(Image.new("RGB", (40, 40)), "PNG", transparency=(0, 0, 0))) == [255] * 3
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert one_colour(encoded(palette, "PNG", transparency=1)) == [255] * 3
    assert one_colour(encoded(palette, "GIF", transparency=1)) == [255] * 3
    assert one_colour(encoded(palette, "PNG", transparency=0)) == [9] * 3


def test_other_colour_modes() -> None:
    """Grey, bilevel, CMYK, 16-bit and float pictures have the brightness that they should."""
    assert one_colour(encoded(Image.new("L", (40, 40), 77), "PNG")) == [77] * 3
    assert one_colour(encoded(Image.new("1", (40, 40), 1), "PNG")) == [255] * 3
    cmyk = one_colour(encoded(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG", quality=95))
    assert cmyk == pytest.approx([255, 0, 0], abs=8)
    sixteen = Image.fromarray(np.full((40, 40), 128 * 257, np.uint16))
    assert one_colour(encoded(sixteen, "PNG")) == [128] * 3
    assert one_colour(encoded(sixteen, "TIFF")) == [128] * 3
    assert one_colour(encoded(Image.fromarray(np.full((40, 40), 0.2, np.float32)), "TIFF")) == [51] * 3


def test_float_pictures_of_any_range() -> None:
    """Measurements without a white point are stretched, and numbers that are none do no harm."""
    values = np.tile(np.linspace(-50, 1000, 40, dtype=np.float32), (40, 1))
    values[0, :2] = np.nan, np.inf
    pixels = decode(encoded(Image.fromarray(values), "TIFF"), SQUASH).pixels
    assert pixels[16, 0, 0] < 20
    assert pixels[16, -1, 0] > 235


def test_first_frame() -> None:
    """Of an animation, the first frame counts."""
    frames = [Image.new("RGB", (40, 40), c) for c in ("red", "blue", "green")]
    for format in ("GIF", "WEBP", "PNG", "AVIF", "TIFF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert one_colour(data) == pytest.approx([255, 0, 0], abs=4), format


def photo(width: int) -> Image.Image:
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image("china.jpg"))
    return image.resize((width, width * image.height // image.width), Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    ("width", "eighths"), [(320, 8), (640, 8), (1000, 5), (1500, 3), (1920, 3), (4000, 2), (8000, 1)]
)
def test_shrink_on_load_keeps_a_reserve(width: int, eighths: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large JPEG is decoded smaller, never below the reserve, and looks the same afterwards."""
    original = photo(width)
    data = encoded(original, "JPEG", quality=92)
    seen = []
    rgb = module._rgb
    monkeypatch.setattr(module, "_rgb", lambda image: seen.append(image.size) or rgb(image))
    clip = Preprocessing(224, 224)
    shrunk, full = decode(data, clip), decode(data, clip, shrink_on_load=False)
    assert (shrunk.width, shrunk.height) == (full.width, full.height) == original.size
    assert seen[0][0] == -(-width * eighths // 8)
    assert min(seen[0]) >= 224 * module.SCALING_RESERVE or eighths == 8
    assert np.abs(shrunk.pixels.astype(int) - full.pixels).mean() < 3


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_marker_is_a_picture(mode: str, progressive: bool) -> None:
    """Nothing but FF D9 is missing (or half of it): the same picture, at full size and scaled. One byte less,
    or a scan less, and it was cut."""
    noise = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    image = Image.fromarray(noise).resize((640, 480)).convert(mode)
    data = encoded(image, "JPEG", quality=90, progressive=progressive)
    whole, scaled = decode(data, P, shrink_on_load=False).pixels, decode(data, P).pixels
    for lacking in (data[:-2], data[:-1], data[:-2] + bytes(100)):
        assert np.array_equal(decode(lacking, P, shrink_on_load=False).pixels, whole)
        assert np.array_equal(decode(lacking, P).pixels, scaled)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    for cut in (len(data) - 4, len(data) - 3, len(data) * 3 // 4, *scans[1:]):
        with pytest.raises(DecodeFailed):
            decode(data[:cut], P)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.booleans())
def test_no_cut_jpeg_is_a_picture(seed: int, where: float, progressive: bool) -> None:
    """Wherever it is cut, unless nothing but the end marker is gone."""
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8))
    data = encoded(noise, "JPEG", quality=95, progressive=progressive)
    with pytest.raises(DecodeError):
        decode(data[: int(where * (len(data) - 3))], P)


def test_what_only_pillow_takes_is_still_taken() -> None:
    """CMYK, and files that a strict reader warns of."""
    assert one_colour(encoded(Image.new("CMYK", (640, 480), (0, 255, 255, 0)), "JPEG")) == pytest.approx(
        [255, 0, 0], abs=3
    )
    data = encoded(Image.new("RGB", (640, 480), "red"), "JPEG", restart_marker_rows=1)
    odd = data.replace(b"\xff\xd3", b"\xff\xd2", 1)  # a restart marker out of turn
    with pytest.raises(ValueError, match="Corrupt"):
        simplejpeg.decode_jpeg(odd)
    assert decode(odd, P).pixels[0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY])
def test_truncated(format: str) -> None:
    """Half a file is an error in every format, not a picture with a grey end."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, format)
    for part in (len(data) // 2, len(data) - 40, 40, 20):
        with pytest.raises(DecodeError):
            decode(data[:part], P)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<!DOCTYPE html><html>",
        b"%PDF-1.7",
        encoded(Image.new("RGB", (9, 9)), "PPM"),
        encoded(Image.new("RGB", (16, 16)), "ICO"),
        encoded(Image.new("RGB", (9, 9)), "TGA"),
        encoded(Image.new("RGB", (9, 9)), "JPEG2000"),
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(99),
    ],
)
def test_unsupported(data: bytes) -> None:
    """What is not on the list is refused by its first bytes, also where Pillow could read it."""
    with pytest.raises(UnsupportedFormat):
        decode(data, P)


def test_heif_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone's HEIC photo is told apart, with the package that reads it."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnsupportedFormat, match=r"imgclust\[heif\]"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), P)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(more)


WEBP_OF_38_BYTES = (
    b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<IB3x", 10, 0x10)
    + (16382).to_bytes(3, "little") * 2 + b"VP8L" + bytes(4)
)  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        png(100_000, 100_000, png_chunk(b"IDAT", b"")),
        WEBP_OF_38_BYTES,
        b"BM" + struct.pack("<IHHIIiiHHIIIIII", 100, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a" + struct.pack("<HH3B", 60_000, 60_000, 0, 0, 0) + b",\0\0\0\0" + bytes(200),
    ],
    ids=["png", "webp", "bmp", "gif"],
)
def test_too_many_pixels(data: bytes) -> None:
    """The header alone convicts: nothing is allocated, and nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TooManyPixels):
            decode(data, P)


def test_pixel_limit_is_exact_and_ours() -> None:
    """The limit is inclusive, is the caller's, and Pillow's own is left as it was."""
    before = Image.MAX_IMAGE_PIXELS
    data = encoded(quadrants(100, 50), "PNG")
    assert decode(data, P, Limits(max_pixels=5000)).width == 100
    with pytest.raises(TooManyPixels, match="100 x 50"):
        decode(data, P, Limits(max_pixels=4999))
    with pytest.raises(DecodeFailed, match="bytes"):
        decode(data, P, Limits(max_bytes=len(data) - 1))
    assert before == Image.MAX_IMAGE_PIXELS


def test_extreme_shapes_cost_no_more() -> None:
    """One pixel high and a million wide: resizing all of it to the encoder's height would take gigabytes."""
    decoded = decode(encoded(Image.new("RGB", (1_000_000, 1), "red"), "PNG"), P)
    assert decoded.pixels.reshape(-1, 3).tolist() == [[255, 0, 0]] * 32 * 32


def progressive(scans: int) -> bytes:
    """A progressive JPEG with many copies of its last scan."""
    data = encoded(quadrants(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def test_jpeg_scans() -> None:
    """A few scans are a progressive file; thousands are an attack, refused before any is decoded."""
    assert decode(progressive(20), P).format == "JPEG"
    with pytest.raises(DecodeFailed, match="scans"):
        decode(progressive(5_000), P)


def test_scan_markers_in_trailing_data_do_not_count() -> None:
    """Phones append videos to their pictures; what looks like scans behind the end is none."""
    data = encoded(quadrants(), "JPEG") + b"\xff\xda\0\2" * 10_000
    assert decode(data, P).width == 64


def test_metadata_is_cut_away() -> None:
    """A decoder sees neither profiles nor text nor comments; the pixels do not change."""
    image = quadrants()
    for format, options in {"JPEG": {"comment": b"x" * 60_000}, "PNG": {}}.items():
        bare = encoded(image, format)
        data = encoded(image, format, icc_profile=bytes(200_000), exif=exif(1), **options)
        prepared = containers.prepare(data, format)
        assert len(prepared.data) < len(bare) + 50
        assert np.array_equal(decode(data, P).pixels, decode(bare, P).pixels)


def test_containers_built_to_exhaust() -> None:
    """Endless chunks, segments, comments and directory entries are refused by counting."""
    chunks = png(4, 4, png_chunk(b"tEXt", b"a\0b") * 100_000)
    segments = b"\xff\xd8" + b"\xff\xfe\0\2" * 10_000
    comments = b"GIF89a" + bytes(7) + b"!\xfe" + b"\1a" * 100_000 + b"\0"
    entries = b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) + bytes(12) * 60_000
    one = struct.pack("<HHII", 700, 7, 10_000_000, 8)
    metadata = b"II*\0\x08\0\0\0" + struct.pack("<H", 100) + one * 100 + bytes(4)
    for data in (chunks, segments, comments, entries, metadata):
        with pytest.raises(DecodeFailed, match=r"more than|at most"):
            decode(data, P)


@pytest.mark.parametrize("kind", [1, 2, 7])
def test_layers_of_a_tiff_are_no_harm(kind: int) -> None:
    """Programs keep their own data in a TIFF: what is in the file once may be there; the same again many
    times may not, nor as many numbers."""
    from PIL import TiffImagePlugin

    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[37724], tags.tagtype[37724] = b"Adobe Photoshop Document Data Block\0" + bytes(17 << 20), kind
    data = encoded(quadrants(), "TIFF", tiffinfo=tags)
    assert np.array_equal(decode(data, P).pixels, decode(encoded(quadrants(), "TIFF"), P).pixels)
    entry = struct.pack("<HHII", 37724, kind, len(data), 0)
    numbers = struct.pack("<HHII", 37724, 3, 9 << 20, 0)
    for many in (entry * 3, numbers):
        head = b"II*\0" + struct.pack("<I", len(data)) + data[8:]
        with pytest.raises(DecodeFailed, match="at most 16777216"):
            decode(head + struct.pack("<H", len(many) // 12) + many + bytes(4), P)


def test_directories_within_a_tiff() -> None:
    """EXIF and GPS directories of a TIFF are read when it is loaded, so they count as well."""
    exif_at, entries = 26, 600
    nested = struct.pack("<HHII", 0x8769, 4, 1, exif_at)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + nested + bytes(4)
    assert len(data) == exif_at
    with pytest.raises(DecodeFailed, match="directory entries"):
        decode(data + struct.pack("<H", entries) + bytes(12) * entries, P)
    circle = data[:10] + struct.pack("<HHII", 0x8769, 4, 1, 8) + bytes(4)
    with pytest.raises(DecodeFailed, match="directory entries"):
        decode(circle, P)
    tags = Image.Exif()
    tags[0x010E] = "a description"
    tags.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    tags.get_ifd(0x8825)[1] = "N"
    assert decode(encoded(quadrants(), "TIFF", exif=tags), P).width == 64


def test_exif_of_avif_is_not_parsed() -> None:
    """Pillow would read every entry of it; the rotation of the container is applied nevertheless."""
    from PIL.AvifImagePlugin import AvifImageFile

    tags = exif(6)
    tags[0x010E] = "a description"
    data = encoded(quadrants(), "AVIF", exif=tags, quality=95)
    assert b"a description" in AvifImageFile(io.BytesIO(data)).info["exif"]
    prepared = containers.prepare(data, "AVIF")
    assert b"a description" not in AvifImageFile(io.BytesIO(prepared.data)).info.get("exif", b"")
    decoded = decode(data, SQUASH)
    assert (decoded.width, decoded.height) == (48, 64)
    assert decoded.pixels[8, 24, 0] > 200  # red has turned to the upper right


SAMPLES = [
    encoded(quadrants(), "JPEG", exif=exif(6)),
    encoded(quadrants(), "JPEG", progressive=True),
    encoded(quadrants().convert("P"), "PNG", transparency=3, exif=exif(3)),
    encoded(quadrants(), "WEBP", exif=exif(8)),
    encoded(quadrants(), "GIF"),
    encoded(quadrants(), "AVIF"),
    encoded(quadrants(), "BMP"),
    encoded(quadrants(), "TIFF", compression="tiff_lzw"),
]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sample=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=6)), max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 3000)),
)
@pytest.mark.filterwarnings("ignore")
def test_damage_never_leaks_foreign_errors(
    sample: bytes, changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    """Whatever the bytes are, there is a picture of the right shape or one of our own errors."""
    data = bytearray(sample)
    for at, value in changes:
        at %= len(data)
        data[at : at + len(value)] = value
    try:
        decoded = decode(bytes(data[:cut]), P, Limits(max_pixels=1_000_000))
    except DecodeError:
        return
    assert decoded.pixels.shape == (32, 32, 3)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"), SyntaxError("x"), ZeroDivisionError("x"), NotImplementedError("x"), OSError("x"),
        struct.error("x"), MemoryError(), EOFError("x"), KeyError("x"), IndexError("x"), TypeError("x"),
        OverflowError("x"), RuntimeError("x"), AttributeError("x"), Image.UnidentifiedImageError("x"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), RecursionError("x"), zlib.error("x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_every_kind_of_error_is_translated(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each exception that Pillow is known to raise for a bad file becomes DecodeFailed."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(module, "_plugin", lambda _: fail)
    for data in (encoded(quadrants(), "PNG"), encoded(quadrants().convert("CMYK"), "JPEG")):
        with pytest.raises(DecodeFailed):
            decode(data, P)
        with pytest.raises(DecodeFailed):
            thumbnail(data)


def test_decompression_bombs_are_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own bomb check, should it strike first, has the same code as ours."""

    def fail(_: object) -> None:
        raise Image.DecompressionBombError("x")

    monkeypatch.setattr(module, "_plugin", lambda _: fail)
    with pytest.raises(TooManyPixels):
        decode(encoded(quadrants(), "PNG"), P)


def test_error_texts_are_one_printable_line() -> None:
    """What a file holds never reaches a log as it is."""
    for data in (b"RIFF\0\0\0\0WEBP\n\x1b[31m" + bytes(99), b"\0\0\0\x14ftyp\n\x1b[m" + bytes(99)):
        with pytest.raises(DecodeError) as caught:
            decode(data, P)
        assert str(caught.value).isprintable()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_exif_of_any_bytes(data: bytes) -> None:
    """Damaged EXIF means upright, as in browsers; it never costs the picture."""
    for head in (b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
        assert containers.exif_orientation(head + data) in range(1, 9)


def test_thumbnail() -> None:
    """A thumbnail is a small upright WebP with the picture's own proportions, on white."""
    data = thumbnail(encoded(quadrants(400, 200), "JPEG", exif=exif(6)))
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("WEBP", (64, 128))
    assert image.convert("RGB").getpixel((50, 10))[0] > 200  # red has turned to the upper right
    assert len(data) < 2_000
    transparent = Image.open(io.BytesIO(thumbnail(encoded(Image.new("RGBA", (9, 9)), "PNG"))))
    assert transparent.convert("RGB").getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_stays_small() -> None:
    """Decoding loads no torch, and a process that decodes stays below 80 MB."""
    code = (
        "import io, re, sys\nfrom PIL import Image\nfrom imgclust.images.decode import decode\n"
        "from imgclust.types import Preprocessing\n"
        "f = io.BytesIO(); Image.new('RGB', (640, 480)).save(f, 'JPEG')\n"
        "decode(f.getvalue(), Preprocessing(224, 224))\n"
        "heavy = {'torch', 'umap', 'numba', 'pyarrow', 'aiohttp', 'pandas', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) < 80 * 1024
