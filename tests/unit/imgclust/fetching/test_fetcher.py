"""`imgclust.fetching.fetcher` without a server: foreign errors, headers, compression, files, names."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import FetchError, FetchFailed, FetchTimeout, NotFound, TooLarge, UrlForbidden
from imgclust.fetching.fetcher import MAX_RETRY_AFTER, Fetcher, retry_after
from imgclust.fetching.local_files import read_file
from imgclust.fetching.translate import TRANSLATIONS, translate
from imgclust.fetching.urls import FetchPolicy

# ── foreign errors ───────────────────────────────────────────────────────────────────────────────────────


def subclasses(base: type[BaseException]) -> Iterator[type[BaseException]]:
    yield base
    for child in base.__subclasses__():
        yield from subclasses(child)


def row(kind: type[BaseException]) -> int:
    return next(i for i, (row, _, _) in enumerate(TRANSLATIONS) if issubclass(kind, row))


def test_every_exception_class_of_aiohttp_has_a_translation() -> None:
    """An upgrade that brings a new class fails here, and not as a vague "the HTTP client failed"."""
    classes = {kind for kind in subclasses(aiohttp.ClientError) if kind.__module__.startswith("aiohttp")}
    assert len(classes) > 25
    vague = row(aiohttp.ClientError)
    assert {kind.__name__ for kind in classes if row(kind) >= vague} == {"ClientError"}


def test_every_exported_exception_is_a_client_error() -> None:
    """There is no second tree beside ClientError that the test above would not see."""
    for name in client_exceptions.__all__:
        kind = getattr(client_exceptions, name)
        assert issubclass(kind, aiohttp.ClientError) or name == "WSMessageTypeError", name


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.InvalidURL("x"), UrlForbidden),
        (aiohttp.SocketTimeoutError(), FetchTimeout),
        (aiohttp.ConnectionTimeoutError(), FetchTimeout),
        (TimeoutError(), FetchTimeout),
        (aiohttp.ClientPayloadError(), FetchFailed),
        (aiohttp.ServerDisconnectedError(), FetchFailed),
        (http_exceptions.BadHttpMessage("x"), FetchFailed),
        (ssl.SSLError(), FetchFailed),
        (ConnectionResetError(), FetchFailed),
        (UnicodeError(), FetchFailed),
        (RuntimeError(), FetchFailed),
        (MemoryError(), FetchFailed),
    ],
)
def test_what_foreign_errors_mean(error: Exception, kind: type[FetchError]) -> None:
    """Each has one meaning; the text shows the class, and no query."""
    translated = translate(error, "http://a.example/x?secret=1")
    assert type(translated) is kind
    assert type(error).__name__ in str(translated)
    assert "secret" not in str(translated)


def test_our_own_errors_pass() -> None:
    """What is translated already stays as it is."""
    error = NotFound("gone")
    assert translate(error, "http://a/") is error


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("imgclust.fetching.fetcher", ("torch", "umap", "numba", "numpy", "PIL", "pyarrow")),
        ("worker.fetching.pool", ("torch", "umap", "numba", "aiohttp", "PIL", "pyarrow")),
        (
            "worker.fetching.process",
            ("torch", "umap", "numba", "hdbscan", "scipy", "pyarrow", "confluent_kafka"),
        ),
    ],
)
def test_nothing_heavy_is_loaded(module: str, absent: tuple[str, ...]) -> None:
    """What a fetcher imports stays small; what its parent imports needs no HTTP client."""
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert module in loaded
    assert not set(absent) & set(loaded)


# ── headers ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("99999999999999999999", MAX_RETRY_AFTER),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60.0),
        ("Wed, 21 Oct 2015 07:26:00 GMT", 0.0),
        ("Wed, 21 Oct 9015 07:26:00 GMT", MAX_RETRY_AFTER),
        ("-5", None),
        ("soon", None),
        ("²", None),
        ("", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds or an HTTP date, at most a day, and never negative."""
    assert retry_after(value, now=1445412420.0) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_survived(value: str) -> None:
    """Whatever the header says, seconds within bounds or nothing come out."""
    seconds = retry_after(value, now=0.0)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "allowed"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a b.jpg").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "inside").symlink_to(root / "sub" / "a b.jpg")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "fifo")
    return root


def test_files_below_the_folder_are_read(folder: Path) -> None:
    """Directly, and through links that stay inside."""
    policy = FetchPolicy(allow_files=folder)
    assert read_file(f"file://{folder}/sub/a%20b.jpg", policy) == b"picture"
    assert read_file(f"FILE:{folder}/inside", policy) == b"picture"


@pytest.mark.parametrize(
    "path",
    ["/outside", "/up/secret", "/../secret", "/sub/../../secret", "/%2e%2e/secret",
     "/sub/%2e%2e/%2e%2e/secret", "/loop", "/fifo", "/sub", "", "/..", "//etc/passwd",
     "/sub/a%20b.jpg%00", "/" + "x" * 300],
)  # fmt: skip
def test_nothing_else_is_read(folder: Path, path: str) -> None:
    """Links out, dots, encoded dots, loops, FIFOs, folders, NUL bytes, overlong names."""
    with pytest.raises((UrlForbidden, NotFound)) as error:
        read_file(f"file://{folder}{path}", FetchPolicy(allow_files=folder))
    assert "secret" not in str(error.value.args[0]).replace("/secret", "")


def test_no_file_is_read_unless_allowed(folder: Path) -> None:
    """The default allows none, and says so."""
    with pytest.raises(UrlForbidden, match="WORKER_FETCH_ALLOW_FILES is not set"):
        read_file(f"file://{folder}/inside", FetchPolicy())


def test_a_missing_file_is_not_found_and_a_large_one_too_large(folder: Path) -> None:
    """With the codes of the wire contract."""
    with pytest.raises(NotFound):
        read_file(f"file://{folder}/nothing.jpg", FetchPolicy(allow_files=folder))
    with pytest.raises(TooLarge, match="7 bytes"):
        read_file(f"file://{folder}/inside", FetchPolicy(allow_files=folder, max_bytes=6))


def test_a_link_that_appears_after_the_check_leads_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between resolving and opening a folder becomes a link to the outside: it is not followed."""
    resolve = Path.resolve

    def swap(path: Path, strict: bool = False) -> Path:
        found = resolve(path, strict)
        if path.name == "a b.jpg" and not (folder / "sub").is_symlink():
            (folder / "sub").rename(folder / "moved")
            outside = folder.parent / "elsewhere"
            outside.mkdir()
            (outside / "a b.jpg").write_bytes(b"secret")
            (folder / "sub").symlink_to(outside)
        return found

    monkeypatch.setattr(Path, "resolve", swap)
    with pytest.raises(UrlForbidden):
        read_file(f"file://{folder}/sub/a%20b.jpg", FetchPolicy(allow_files=folder))


# ── sockets ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_socket_is_made_for_public_addresses_only() -> None:
    """The last check stands where the socket is made, whatever the checks before it said."""

    async def go() -> None:
        async with Fetcher(FetchPolicy()) as fetcher:
            for address in (("127.0.0.1", 80), ("::1", 80, 0, 0), ("169.254.169.254", 80)):
                family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
                with pytest.raises(UrlForbidden, match="not public"):
                    fetcher._open_socket((family, socket.SOCK_STREAM, 6, "", address))

    asyncio.run(go())
