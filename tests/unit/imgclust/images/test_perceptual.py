"""Perceptual hashes: copies of one picture agree, whatever was done to the file; other pictures do not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from imgclust.images.decode import decode
from imgclust.images.perceptual import SAME, UNKNOWN, differing, may_be_same
from imgclust.types import Preprocessing

PREPROCESSING = Preprocessing(size=32, resize=36)


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def hash_of(data: bytes) -> np.ndarray:
    found = decode(data, PREPROCESSING, hashed=True).hash
    assert found is not None
    return np.array([found], np.uint64)


@pytest.mark.parametrize("name", ["birds/0035.jpg", "mammals/0100.jpg"])
def test_copies_agree(name: str, clipart: Path) -> None:
    """Scaled, of another format, of a lower quality: a few bits at most."""
    original = (clipart / name).read_bytes()
    image = Image.open(io.BytesIO(original)).convert("RGB")
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    for copy in (encoded(small), encoded(image, "JPEG", quality=40), encoded(image, "WEBP", quality=50)):
        assert differing(hash_of(original), hash_of(copy))[0] <= SAME


def clef(left: bool) -> bytes:
    """A line and, outside the crop that an encoder sees, a mark on the left or on the right."""
    image = Image.new("RGB", (300, 100), "white")
    draw = ImageDraw.Draw(image)
    draw.line((0, 50, 300, 50), "black", 4)
    x = 10 if left else 250
    draw.rectangle((x, 10, x + 40, 90), fill="black")
    return encoded(image)


def test_what_a_crop_does_not_see_counts() -> None:
    """Two pictures with the same middle: equal pixels for the encoder, hashes that are far apart."""
    one, other = (decode(clef(left), PREPROCESSING, hashed=True) for left in (True, False))
    assert np.array_equal(one.pixels, other.pixels)
    assert not may_be_same(hash_of(clef(True)), hash_of(clef(False)))[0]


def drawn(on: tuple[int, int, int, int], *, circle: bool) -> bytes:
    image = Image.new("RGBA", (120, 120), (255, 255, 255, 0))
    (ImageDraw.Draw(image).ellipse if circle else ImageDraw.Draw(image).rectangle)((20, 40, 90, 80), fill=on)
    return encoded(image)


def test_white_on_transparent_is_not_blank() -> None:
    """It is laid on black, so that two white drawings differ; any other colour stays on white."""
    circle, square = (decode(drawn((255, 255, 255, 255), circle=c), PREPROCESSING) for c in (True, False))
    assert circle.pixels.max() == 255
    assert circle.pixels.min() == 0
    assert not np.array_equal(circle.pixels, square.pixels)
    red = decode(drawn((255, 0, 0, 255), circle=True), PREPROCESSING).pixels
    assert red[0, 0].tolist() == [255, 255, 255]
    nothing = decode(encoded(Image.new("RGBA", (60, 60), (9, 9, 9, 0))), PREPROCESSING).pixels
    assert (nothing == 255).all()


@given(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1))
def test_bits_are_counted(one: int, other: int) -> None:
    a, b = np.array([one], np.uint64), np.array([other], np.uint64)
    assert differing(a, b)[0] == bin(one ^ other).count("1")
    assert may_be_same(a, b)[0] == (bin(one ^ other).count("1") <= SAME)
    assert may_be_same(a, np.array([UNKNOWN], np.uint64))[0]


def test_blank_pictures_have_a_hash() -> None:
    """Black or white all over: a hash, and not the one that means "not known"."""
    for colour in ("black", "white"):
        assert hash_of(encoded(Image.new("RGB", (50, 50), colour)))[0] != UNKNOWN
