"""`imgclust.fetching.content_coding`: a body comes out whole, or the fetch has failed."""

import gzip
import os
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import FetchError, FetchFailed, TooLarge
from imgclust.fetching.content_coding import MAX_CODINGS, MAX_MEMBERS, codings, undo

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]) + bytes(5),
    "deflate": zlib.compress,
}
IMAGES = [
    b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM", b"II*\0", b"MM\0*",
    b"\0\0\0\x1cftypavif",
]  # fmt: skip


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


@given(st.sampled_from(IMAGES), st.binary(max_size=300), st.lists(st.sampled_from([*PACKERS, "UTF-8", ""])))
def test_what_was_packed_is_unpacked_in_order(magic: bytes, rest: bytes, tokens: list[str]) -> None:
    """Whatever was applied, in whatever order, with strangers' tokens between."""
    tokens = [token for i, token in enumerate(tokens) if sum(t in PACKERS for t in tokens[:i]) < MAX_CODINGS]
    body = magic + rest
    for token in tokens:
        body = PACKERS.get(token, bytes)(body)
    assert undo(body, codings([", ".join(tokens)]), 10_000) == magic + rest
    assert undo(body, codings(tokens), 10_000) == magic + rest


@given(
    st.sampled_from(IMAGES), st.binary(max_size=300), st.sampled_from([*PACKERS, "br", "zstd", "compress"])
)
def test_an_image_that_is_not_packed_stays_as_it_is(magic: bytes, rest: bytes, token: str) -> None:
    """The header is wrong, the bytes are right."""
    assert undo(magic + rest, codings([token]), 10_000) == magic + rest


@given(st.binary(min_size=1, max_size=300), st.sampled_from(["gzip", "deflate"]), st.data())
def test_a_packed_body_is_whole_or_fails(data: bytes, token: str, draw: st.DataObject) -> None:
    """Cut anywhere after the magic, followed by something, or above the limit: never a part of it."""
    packed = PACKERS[token](data)
    cut = draw.draw(st.integers(3, len(packed) - 1))
    if packed[cut:].strip(b"\0"):
        with pytest.raises(FetchFailed):
            undo(packed[:cut], (token,), 10_000)
    with pytest.raises(FetchFailed):
        undo(packed + b"x", (token,), 10_000)
    with pytest.raises(TooLarge):
        undo(packed, (token,), len(data) - 1)
    assert undo(packed, (token,), len(data)) == data


@given(st.binary(max_size=200), st.lists(st.sampled_from(["gzip", "deflate", "br"]), max_size=MAX_CODINGS))
def test_any_bytes_are_survived(data: bytes, applied: list[str]) -> None:
    """Nothing but our own errors come out."""
    try:
        undo(data, applied, 1000)
    except FetchError as error:
        assert str(error).isprintable()


def test_deflate_without_its_header_is_understood() -> None:
    """Some servers send it so."""
    data = os.urandom(1000) * 3
    assert undo(raw_deflate(data), ("deflate",), 3000) == data


def test_a_compression_bomb_is_cut_off_at_the_limit() -> None:
    """A few bytes that unpack to much cost no more than the limit, packed once or twice."""
    bomb = gzip.compress(bytes(2**28), 1)
    for data, applied in ((bomb, ("gzip",)), (gzip.compress(bomb), ("gzip", "gzip"))):
        with pytest.raises(TooLarge, match="unpacked"):
            undo(data, applied, 10_000_000)


def test_what_is_packed_too_often_is_refused() -> None:
    """A header may name thousands of codings, and a body may have millions of members."""
    with pytest.raises(FetchFailed, match=f"at most {MAX_CODINGS}"):
        codings(["gzip"] * (MAX_CODINGS + 1))
    with pytest.raises(FetchFailed, match=f"more than {MAX_MEMBERS} members"):
        undo(gzip.compress(b"") * 1_000_000, ("gzip",), 10**9)
