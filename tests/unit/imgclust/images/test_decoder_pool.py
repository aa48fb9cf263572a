"""Decoding in processes apart: the same pictures as here, and what kills a process costs one image."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclust.errors import DecodeFailed, ImgclustError, TooManyPixels, UnsupportedFormat
from imgclust.images import decoder_pool
from imgclust.images.decode import Limits, decode
from imgclust.images.decoder_pool import DecoderPool
from imgclust.types import Preprocessing

PREPROCESSING, LIMITS = Preprocessing(16, 16), Limits(max_pixels=100_000)
HOOKED = "tests.support.hooked_decoder:decode"


def picture(width: int = 40, height: int = 30) -> bytes:
    pixels = np.random.default_rng(0).integers(255, size=(height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def hooked() -> Iterator[DecoderPool]:
    with DecoderPool(2, PREPROCESSING, LIMITS, hashed=True, timeout=60.0, decode=HOOKED) as pool:
        yield pool


def test_a_picture_is_what_it_is_here(hooked: DecoderPool) -> None:
    """Pixels, size, format and hash, bit for bit, from any thread."""
    expected = decode(picture(), PREPROCESSING, LIMITS, hashed=True)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(hooked.decode, [picture()] * 8):
            assert found.pixels.tobytes() == expected.pixels.tobytes()
            assert (found.width, found.height, found.format, found.hash) == (
                expected.width, expected.height, expected.format, expected.hash,
            )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"nothing", UnsupportedFormat), (picture()[:90], DecodeFailed), (picture(400, 300), TooManyPixels)],
)
def test_failures_are_what_they_are_here(hooked: DecoderPool, data: bytes, error: type[Exception]) -> None:
    """The same error with the same text; the process goes on."""
    with pytest.raises(error) as here:
        decode(data, PREPROCESSING, LIMITS)
    lost = hooked.lost
    with pytest.raises(error) as apart:
        hooked.decode(data)
    assert str(apart.value) == str(here.value)
    assert hooked.lost == lost


@pytest.mark.parametrize("order", [b"do:crash", b"do:say hello, I am a picture"])
def test_what_kills_a_process_fails_alone(hooked: DecoderPool, order: bytes) -> None:
    """Tried twice, each time in a process of its own; the next picture is decoded as ever."""
    lost = hooked.lost
    with pytest.raises(DecodeFailed, match="died or hung, and did so again"):
        hooked.decode(order)
    assert hooked.lost == lost + 2
    assert hooked.decode(picture()).width == 40


def test_a_crash_that_was_chance_costs_nothing(hooked: DecoderPool, tmp_path: Path) -> None:
    (tmp_path / "marker.ok").write_bytes(picture())
    lost = hooked.lost
    found = hooked.decode(b"do:crash_once " + os.fsencode(tmp_path / "marker"))
    assert (found.width, hooked.lost) == (40, lost + 1)


def test_one_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it keeps the interpreter's lock."""
    fresh = DecoderPool(1, PREPROCESSING, LIMITS, timeout=0.5, decode=HOOKED)
    monkeypatch.setattr(decoder_pool, "TRIES", 1)
    with fresh, pytest.raises(DecodeFailed, match="died or hung"):
        fresh.decode(b"do:spin")
    assert fresh.lost == 1


def test_memory_is_bounded(hooked: DecoderPool) -> None:
    """Eight gigabytes are not to be had; the process says so and goes on."""
    lost = hooked.lost
    with pytest.raises(DecodeFailed, match="MemoryError"):
        hooked.decode(b"do:eat")
    assert hooked.lost == lost


def test_a_process_that_does_not_start_ends_the_run() -> None:
    """No picture is blamed for it."""
    with (
        DecoderPool(1, PREPROCESSING, LIMITS, decode="tests.support.nothing:decode") as pool,
        pytest.raises(ImgclustError, match="does not start") as error,
    ):
        pool.decode(picture())
    assert not isinstance(error.value, DecodeFailed)


def test_a_process_that_decodes_at_the_end_ends_after_that() -> None:
    """Nobody else would end it: it is in no queue while it decodes."""
    with DecoderPool(1, PREPROCESSING, LIMITS) as pool:
        pool.decode(picture())
        decoding = pool._taken()
    assert decoding._process.poll() is None
    pool._give_back(decoding)
    assert decoding._process.poll() is not None
