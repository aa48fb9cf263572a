"""`imgclust.fetching.fetcher` without a server: foreign errors, headers, compression, files, names."""

import asyncio
import gzip
import os
import socket
import ssl
import subprocess
import sys
import threading
import zlib
from collections.abc import Coroutine, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import FetchError, FetchFailed, FetchTimeout, NotFound, TooLarge, UrlForbidden
from imgclust.fetching.fetcher import MAX_RETRY_AFTER, Fetcher, inflate, retry_after
from imgclust.fetching.local_files import read_file
from imgclust.fetching.resolver import KEEP, KEEP_FAILED, PER_DOMAIN, CheckedResolver
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


# ── compression ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda data: zlib.compress(data)[2:-4]])
def test_gzip_and_both_kinds_of_deflate_are_unpacked(pack: object) -> None:
    """Servers that compress although they were asked not to are understood."""
    data = os.urandom(1000) * 3
    assert inflate(pack(data), 3000) == data  # type: ignore[operator]


def test_a_compression_bomb_is_cut_off_at_the_limit() -> None:
    """1 MB that unpacks to 1 GB costs no more than the limit."""
    bomb = gzip.compress(gzip.compress(b"\0" * 2**28, 1), 1)
    assert len(bomb) < 2**18
    with pytest.raises(TooLarge, match="unpacked"):
        inflate(gzip.decompress(bomb), 10_000)


@pytest.mark.parametrize(
    "data", [gzip.compress(bytes(999), mtime=0)[:-9], b"\x1f\x8bnonsense", b"", b"plain"]
)
def test_damaged_and_shortened_streams_are_refused(data: bytes) -> None:
    """A compressed body that ends early is no body."""
    with pytest.raises(FetchFailed):
        inflate(data, 10_000)


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
    with pytest.raises(UrlForbidden, match="no folder is allowed"):
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


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────


class Names:
    """A resolver's answers, and how often each was asked for."""

    def __init__(self, answers: dict[str, list[str] | OSError]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        answer = self.answers[host]
        if isinstance(answer, OSError):
            raise answer
        return answer


def public(address: str) -> bool:
    return FetchPolicy().permits_address(address)


def run(coroutine: Coroutine[object, object, None]) -> None:
    asyncio.run(coroutine)


def test_only_public_addresses_are_handed_on() -> None:
    """Of a mixed answer the public ones are used; of a private one nothing, and the reason is said."""

    async def go() -> None:
        names = Names({"mixed.example": ["127.0.0.1", "8.8.8.8", "::1"], "rebound.example": ["10.0.0.1"]})
        resolver = CheckedResolver(public, lookup=names)
        assert [r["host"] for r in await resolver.resolve("mixed.example", 80)] == ["8.8.8.8"]
        with pytest.raises(UrlForbidden, match=r"no public address \(it has 10\.0\.0\.1\)"):
            await resolver.resolve("rebound.example", 80)
        await resolver.close()

    run(go())


def test_answers_and_failures_are_remembered_for_a_while() -> None:
    """One question per name and lifetime; failures are kept more briefly."""

    async def go() -> None:
        now = [0.0]
        names = Names({"a.example": ["8.8.8.8"], "b.example": OSError(-2, "Name or service not known")})
        resolver = CheckedResolver(public, lookup=names, clock=lambda: now[0])
        for _ in range(3):
            await resolver.resolve("a.example")
            with pytest.raises(FetchFailed, match="Name or service not known"):
                await resolver.resolve("b.example")
        assert names.asked == ["a.example", "b.example"]
        now[0] = KEEP_FAILED
        with pytest.raises(FetchFailed):
            await resolver.resolve("b.example")
        await resolver.resolve("a.example")
        now[0] = KEEP
        await resolver.resolve("a.example")
        assert names.asked == ["a.example", "b.example", "b.example", "a.example"]
        await resolver.close()

    run(go())


def test_one_slow_domain_stalls_nobody() -> None:
    """Its names hold a few threads at most, the rest of them fail at once; other names are answered."""

    async def go() -> None:
        gate = threading.Event()

        def lookup(host: str) -> list[str]:
            if host.endswith("slow.example"):
                gate.wait(10)
            return ["8.8.8.8"]

        resolver = CheckedResolver(public, lookup=lookup)
        slow = [asyncio.create_task(resolver.resolve(f"h{i}.slow.example")) for i in range(100)]
        found = await resolver.resolve("quick.test")
        done = [task for task in slow if task.done()]
        assert found[0]["host"] == "8.8.8.8"
        assert len(done) == 100 - PER_DOMAIN
        assert all(isinstance(task.exception(), FetchFailed) for task in done)
        gate.set()
        await asyncio.gather(*slow, return_exceptions=True)
        await resolver.close()

    run(go())


def test_waiters_share_a_question_and_survive_each_others_time_limits() -> None:
    """Two ask for one name at once; the first gives up; the second gets the answer of the one question."""

    async def go() -> None:
        gate = threading.Event()
        asked = []

        def lookup(host: str) -> list[str]:
            asked.append(host)
            gate.wait(10)
            return ["8.8.8.8"]

        resolver = CheckedResolver(public, lookup=lookup)
        first = asyncio.create_task(resolver.resolve("a.example"))
        second = asyncio.create_task(resolver.resolve("a.example"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert (await second)[0]["host"] == "8.8.8.8"
        assert asked == ["a.example"]
        await resolver.close()

    run(go())


def test_a_socket_is_made_for_public_addresses_only() -> None:
    """The last check stands where the socket is made, whatever the checks before it said."""

    async def go() -> None:
        async with Fetcher(FetchPolicy()) as fetcher:
            for address in (("127.0.0.1", 80), ("::1", 80, 0, 0), ("169.254.169.254", 80)):
                family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
                with pytest.raises(UrlForbidden, match="not public"):
                    fetcher._open_socket((family, socket.SOCK_STREAM, 6, "", address))

    run(go())
