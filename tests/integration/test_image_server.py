"""The demo's web server: it serves its pictures, its broken ones, and nothing else of this machine."""

from __future__ import annotations

import concurrent.futures
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgclust.errors import DecodeFailed, TooManyPixels, UnsupportedFormat
from imgclust.images.decode import decode
from imgclust.types import Preprocessing
from worker.demo.image_server import HUGE_SIDE, ImageServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ImageServer]:
    (tmp_path / "a.jpg").write_bytes(b"the first picture")
    (tmp_path / "secret.txt").write_text("secret")
    with ImageServer([tmp_path / "a.jpg"]) as running:
        yield running


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
    return body


def test_pictures_have_numbers_and_nothing_else_is_served(server: ImageServer) -> None:
    """A number that there is gives its file; any other path is not found."""
    assert get(server.url(0)) == b"the first picture"
    base = server.url(0).removesuffix("images/0")
    for path in (
        "images/1",
        "images/-1",
        "images/secret.txt",
        "images/../secret.txt",
        "images/%2e%2e/secret.txt",
        "images/99999999999",
        "broken/nothing",
        "broken/../secret.txt",
        "",
    ):
        with pytest.raises(urllib.error.HTTPError) as error:
            get(base + path)
        assert error.value.code == 404, path


def test_broken_pictures_are_broken_as_they_should_be(server: ImageServer) -> None:
    """Each breaks in the decoder or the fetcher for the reason that its name tells."""
    preprocessing = Preprocessing(224, 256)
    expected = {"truncated": DecodeFailed, "text": UnsupportedFormat, "huge": TooManyPixels}
    for name, kind in expected.items():
        with pytest.raises(kind):
            decode(get(server.broken_url(name)), preprocessing)
    assert len(get(server.broken_url("huge"))) < HUGE_SIDE**2 / 100  # small to send, large to decode
    with pytest.raises(urllib.error.HTTPError) as error:
        get(server.broken_url("error"))
    assert error.value.code == 503


def test_the_slow_picture_waits_for_its_successor(server: ImageServer) -> None:
    """So an upload is superseded while it is fetched, at any speed of the machine."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(get, server.broken_url("slow"))
        time.sleep(0.2)  # nothing may come; a wrong implementation has time to show it
        assert not slow.done()
        get(server.broken_url("after-slow"))
        assert slow.result(timeout=30) == b"the first picture"
