"""What must hold for any bytes from outside: one function for each place where they come in.

Hypothesis calls them for a moment in every test run (`test_fuzz.py`), a coverage-guided fuzzer for as long as
one likes (`fuzz.py`, `make fuzz`). They return, or an AssertionError or a foreign exception is a finding.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Callable
from pathlib import Path

from imgclust.errors import FetchError, ImageError, UrlForbidden
from imgclust.fetching.addresses import may_connect
from imgclust.fetching.content_coding import undo
from imgclust.fetching.fetcher import retry_after
from imgclust.fetching.object_store import split
from imgclust.fetching.urls import FetchPolicy, UrlChecker, check_url, file_path
from imgclust.images.decode import Limits, decode
from imgclust.types import Preprocessing
from tests.hostile.images import MAX_PIXELS
from worker.errors import Rejected
from worker.fetching.protocol import ProtocolError, read_report
from worker.messages.text import format_time
from worker.messages.upload import parse_upload

PREPROCESSING = Preprocessing(size=32, resize=32)
PUBLIC = FetchPolicy()
BUCKETS = FetchPolicy(allow_buckets=("uploads",))


def _one_line(error: Exception) -> None:
    assert str(error).isprintable()
    assert len(str(error)) < 600


def event(data: bytes) -> None:
    """An upload whose fields hold what they promise and that a plain reader reads alike, or `bad-event`."""
    try:
        upload = parse_upload(data, data[:300], 1_700_000_000_000)
    except Rejected as error:
        assert error.code == "bad-event"
        _one_line(error)
        return
    assert 1 <= len(upload.id) <= 256
    upload.id.encode()  # a Redis key and a record's key
    format_time(upload.uploaded_at)
    json.dumps(dict(upload.attributes), allow_nan=False)
    body = data[5:] if data[:1] == b"\0" else data  # a schema registry's number goes before it
    plain = json.loads(body, object_pairs_hook=_unique)
    assert plain["id"] == upload.id


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def url(data: bytes) -> None:
    """A URL in ASCII that asks for a public host, or `url-forbidden`; the checker that remembers agrees."""
    text = data.decode("utf-8", "replace")
    try:
        asked = check_url(text, PUBLIC)
    except UrlForbidden as error:
        _one_line(error)
        asked = None
    checker = UrlChecker(PUBLIC)
    for _ in range(2):
        try:
            again = checker.check(text)
        except UrlForbidden:
            again = None
        assert str(again) == str(asked)
    if asked is not None:
        assert str(asked).isascii()
        assert str(asked).isprintable()
        assert asked.scheme in ("http", "https")
        assert asked.port in (80, 443)
        assert asked.raw_user is None
        host = asked.raw_host or ""
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            assert may_connect(host)
        assert host.lower() == host
    with contextlib.suppress(UrlForbidden):
        assert file_path(text).is_absolute()
    with contextlib.suppress(UrlForbidden):
        bucket, key = split("s3://" + text, BUCKETS)
        assert bucket == "uploads"
        assert ".." not in Path(key).parts


def image(data: bytes) -> None:
    """A picture of the right shape, or one of the errors of an image."""
    try:
        picture = decode(data, PREPROCESSING, Limits(max_pixels=MAX_PIXELS))
    except ImageError as error:
        _one_line(error)
        return
    assert picture.pixels.shape == (32, 32, 3)
    assert picture.width * picture.height <= MAX_PIXELS


def fetcher(data: bytes) -> None:
    """A line of a fetcher that was taken over: a report whose fields are checked, or a protocol error."""
    try:
        report = read_report(data)
    except ProtocolError:
        return
    for failed in report.failed:
        assert failed.message.isprintable()
        assert failed.retry_after is None or failed.retry_after >= 0


def answer(data: bytes) -> None:
    """A server's compressed body and its `Retry-After`."""
    with contextlib.suppress(FetchError):
        for coding in ("gzip", "deflate"):
            plain = undo(data, (coding,), 100_000)
            assert plain == data or len(plain) <= 100_000
    wait = retry_after(data[:100].decode("latin-1"), 1_700_000_000.0)
    assert wait is None or 0 <= wait <= 24 * 3600


TARGETS: dict[str, Callable[[bytes], None]] = {
    "event": event,
    "url": url,
    "image": image,
    "fetcher": fetcher,
    "answer": answer,
}
