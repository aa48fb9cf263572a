"""`imgclust.fetching.fetcher` against a real server on loopback that misbehaves byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import hmac
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgclust.errors import FetchError, FetchFailed, FetchTimeout, NotFound, TooLarge, UrlForbidden
from imgclust.fetching.breaker import THRESHOLD
from imgclust.fetching.fetcher import Fetched, Fetcher
from imgclust.fetching.urls import FetchPolicy
from tests.support.origin import Handler, Origin, Request, drip, response, silence, then_close

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
BODY = bytes(range(256)) * 64


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin({"/ok": response(BODY)}).running() as server:
        yield server


def policy(*ports: int, **changes: object) -> FetchPolicy:
    return FetchPolicy(allow_networks=LOOPBACK, allow_ports=ports, **changes)  # type: ignore[arg-type]


def fetch(url: str, rules: FetchPolicy) -> Fetched:
    async def go() -> Fetched:
        async with Fetcher(rules) as fetcher:
            return await fetcher.fetch(url)

    return asyncio.run(go())


def refusal(url: str, rules: FetchPolicy) -> FetchError:
    with pytest.raises(FetchError) as error:
        fetch(url, rules)
    assert "\n" not in str(error.value)
    return error.value


def test_bytes_arrive_and_nothing_more_than_needed_is_said(origin: Origin) -> None:
    """The body, whole; the request asks for no compression and carries no cookies or credentials."""
    origin.paths["/ok"] = response(BODY, "200 OK", "Set-Cookie: id=1")

    async def go() -> None:
        async with Fetcher(policy(origin.port)) as fetcher:
            for _ in range(2):
                assert (await fetcher.fetch(origin.url("/ok?a=%2F"))).data == BODY

    asyncio.run(go())
    request = origin.requests[1]
    assert request.path == "/ok?a=%2F"
    assert request.headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "referer"} & request.headers.keys()
    assert origin.connections == 1


def test_proxies_of_the_environment_are_ignored(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would connect for us, to an address that nobody has checked."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(origin.url("/ok"), policy(origin.port)).data == BODY


def test_a_proxy_that_was_named_is_asked_for_everything(origin: Origin) -> None:
    """It gets the whole URL and its own credentials, also of hosts that only it resolves; what is refused by
    its form never gets there, and what the proxy refuses is a failed fetch that tells no password."""
    origin.paths["http://images.internal.example/x.jpg"] = response(BODY)
    rules = FetchPolicy(proxy=f"http://us:pass-word@127.0.0.1:{origin.port}")
    assert fetch("http://images.internal.example/x.jpg", rules).data == BODY
    assert (
        origin.requests[-1].headers["proxy-authorization"] == f"Basic {b64encode(b'us:pass-word').decode()}"
    )
    before = origin.connections
    for url in ("http://127.0.0.1/", "http://169.254.169.254/", "http://x.example:22/", "file:///etc/passwd"):
        assert type(refusal(url, rules)) is UrlForbidden
    assert origin.connections == before
    error = refusal("https://images.internal.example/x.jpg", rules)
    assert origin.requests[-1].method == "CONNECT"
    assert type(error) is FetchFailed
    assert "proxy refuses" in str(error)
    assert "pass-word" not in str(error)
    away = refusal("http://images.internal.example/", FetchPolicy(proxy="http://us:pass-word@127.0.0.1:1"))
    assert "proxy cannot be reached" in str(away)
    assert "pass-word" not in str(away)


# ── object stores ────────────────────────────────────────────────────────────────────────────────────────

KEY_ID, SECRET = "AKIDEXAMPLE", "not/a/real/secret"


def signature(request: Request) -> str:
    """AWS Signature Version 4 of a request without a body, as the store computes it."""
    scope = request.headers["authorization"].partition("Credential=")[2].partition(",")[0].split("/", 1)[1]
    signed = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    path, _, query = request.path.partition("?")
    lines = [f"{name}:{request.headers[name]}" for name in signed.split(";")]
    payload = request.headers["x-amz-content-sha256"]
    canonical = "\n".join([request.method, path, query, *lines, "", signed, payload])
    date = request.headers["x-amz-date"]
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + SECRET.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()


@pytest.fixture
def store(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Origin:
    """A server that speaks as much of S3 as reading needs, and checks the signature of each request."""
    pytest.importorskip("obstore", reason="the extra `s3` is not installed")
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{origin.port}", 
        "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    def signed(answer: bytes) -> Handler:
        async def handle(_: object, writer: asyncio.StreamWriter, request: Request) -> None:
            good = request.headers["authorization"].endswith(f"Signature={signature(request)}")
            writer.write(answer if good else response(b"", "403 Forbidden"))
            await writer.drain()

        return handle

    date = "Last-Modified: Wed, 25 Nov 2026 00:00:00 GMT"
    origin.paths |= {
        "/uploads/cats/a%20cat.jpg": signed(response(BODY, "200 OK", date, 'ETag: "1"')),
        "/uploads/slow.jpg": drip(BODY, 100, 0.1, date, 'ETag: "2"'),
        "/uploads/silent.jpg": silence,
        "/uploads/refused.jpg": response(b"<Error><Code>AccessDenied</Code></Error>", "403 Forbidden"),
        "/uploads/broken.jpg": then_close(response(BODY[:99], "200 OK", date, 'ETag: "3"', length=9999)),
    }
    return origin


def test_objects_of_named_buckets_are_read(store: Origin) -> None:
    """The request is signed, the key taken as it is written, and the bytes arrive."""
    rules = FetchPolicy(allow_buckets=("uploads",))
    assert fetch("s3://uploads/cats/a cat.jpg", rules).data == BODY
    assert KEY_ID in store.requests[-1].headers["authorization"]


@pytest.mark.parametrize("token", ["", "aws-chunked", "UTF-8", "gzip", "aws-chunked,gzip"])
def test_encodings_of_objects(store: Origin, token: str) -> None:
    """Clients set them when they upload, and stores repeat them: the same rules as for web servers."""
    body = gzip.compress(PNG) if "gzip" in token else PNG
    date = "Last-Modified: Wed, 25 Nov 2026 00:00:00 GMT"
    store.paths["/uploads/x"] = response(body, "200 OK", date, 'ETag: "4"', f"Content-Encoding: {token}")
    assert fetch("s3://uploads/x", FetchPolicy(allow_buckets=("uploads",))).data == PNG


@pytest.mark.parametrize(
    "url",
    ["s3://private/cats/a cat.jpg", "s3:///x", "s3://uploads", "s3://uploads/", "s3://uploads/../private/x",
     "s3://uploads/./x", "s3://uploads//x", "s3://uploads/a\nb", "s3://uploads@private/x", "s3://UPLOADS/x",
     "S3://private/x", "s3://uploads/" + "k" * 1025, "s3://us:pw@uploads/x", "s3://uploads:80/x"],
)  # fmt: skip
def test_no_other_bucket_is_asked(store: Origin, url: str) -> None:
    """Nothing but an allowed bucket's plain key leads to a request, and without buckets nothing does."""
    assert type(refusal(url, FetchPolicy(allow_buckets=("uploads",)))) is UrlForbidden
    assert type(refusal(url, FetchPolicy())) is UrlForbidden
    assert store.connections == 0


@pytest.mark.parametrize(
    ("key", "kind", "changes"),
    [
        ("nothing.jpg", NotFound, {}),
        ("refused.jpg", FetchFailed, {}),
        ("broken.jpg", FetchFailed, {}),
        ("cats/a cat.jpg", TooLarge, {"max_bytes": 16_383}),
        ("silent.jpg", FetchTimeout, {"connect_timeout": 0.2, "first_byte_timeout": 0.2}),
        ("slow.jpg", FetchTimeout, {"rate_grace": 0.3}),
        ("slow.jpg", FetchTimeout, {"total_timeout": 0.5}),
    ],
)
def test_stores_are_held_to_the_same_limits(
    store: Origin, key: str, kind: type[FetchError], changes: dict[str, float]
) -> None:
    """Missing, refused, cut off, large, silent and slow objects end as those of web servers, with a text that
    tells neither the store's address nor credentials."""
    error = refusal(f"s3://uploads/{key}", FetchPolicy(allow_buckets=("uploads",), **changes))  # type: ignore[arg-type]
    assert type(error) is kind, error
    assert "127.0.0.1" not in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("404 Not Found", NotFound),
        ("410 Gone", NotFound),
        ("403 Forbidden", FetchFailed),
        ("401 Unauthorized", FetchFailed),
        ("400 Bad Request", FetchFailed),
        ("204 No Content", FetchFailed),
        ("206 Partial Content", FetchFailed),
        ("304 Not Modified", FetchFailed),
        ("500 Internal Server Error", FetchFailed),
        ("999 What", FetchFailed),
    ],
)
def test_what_statuses_mean(origin: Origin, status: str, kind: type[FetchError]) -> None:
    """Only a complete 200 is an image; 404 and 410 are "not found"; all others may pass."""
    origin.paths["/x"] = response(b"" if status[:3] in ("204", "304") else BODY, status)
    error = refusal(origin.url("/x"), policy(origin.port))
    assert type(error) is kind
    assert error.transient
    assert status[:3] in str(error)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable", "500 No"])
def test_the_server_may_ask_to_wait(origin: Origin, status: str) -> None:
    """`Retry-After` reaches whoever tries again."""
    origin.paths["/x"] = response(b"", status, "Retry-After: 17")
    error = refusal(origin.url("/x"), policy(origin.port))
    assert (type(error), error.retry_after) == (FetchFailed, 17.0)


# ── redirects ────────────────────────────────────────────────────────────────────────────────────────────


def test_redirects_are_followed_within_the_limit(origin: Origin) -> None:
    """Absolute, relative, with a URL in the query; three hops, not four."""
    origin.paths |= {
        "/1": response(b"", "301 Moved", f"Location: {origin.url('/2')}"),
        "/2": response(b"", "302 Found", "Location: 3?next=http://127.0.0.1/"),
        "/3": response(b"", "307 Temporary", "Location: /ok"),
        "/0": response(b"", "308 Permanent", "Location: /1"),
    }
    found = fetch(origin.url("/1"), policy(origin.port))
    assert (found.data, found.redirects) == (BODY, 3)
    error = refusal(origin.url("/0"), policy(origin.port))
    assert type(error) is FetchFailed
    assert "more than 3 redirects" in str(error)


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", "//10.0.0.1/x", "file:///etc/passwd",
     "ftp://example.com/", "http://user:pw@127.0.0.1/", "//user@127.0.0.1/", "http://127.0.0.1:1/", "http://",
     "http://[::1]/", "javascript:alert(1)", "http://127.0.0.1\\@example.com/"],
)  # fmt: skip
def test_redirects_are_checked_like_urls(origin: Origin, target: str) -> None:
    """A redirect gets nowhere that the URL itself would not."""
    origin.paths["/x"] = response(b"", "302 Found", f"Location: {target}")
    rules = FetchPolicy(allow_networks=(ipaddress.ip_network("127.0.0.1/32"),), allow_ports=(origin.port, 80))
    assert type(refusal(origin.url("/x"), rules)) is UrlForbidden


@pytest.mark.parametrize(
    "target",
    ["/a%28b%29.png?sig=%2Fx%27y%7E&cred=AK%2F2026%2Faws", "/new place/a.png?b c",
     "/caf\xc3\xa9?\xff\xe9=%ff",
     "/a/../b/./c", "/a?", "/%", "/x?y=//z?", "/a%20%2520+b;c=1,d!$&'()*[]{}|^`<>\"", "/ü%41"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["direct", "/", "//", "http://"])
def test_targets_arrive_byte_for_byte(origin: Origin, form: str, target: str) -> None:
    """Signed URLs stay signed, directly and through each form of a redirect: nothing is decoded, nothing is
    encoded but what a request line cannot carry, and that once. The header's bytes are latin-1 here."""
    raw = target.encode("latin-1")
    sent = "".join(chr(b) if 0x21 <= b < 0x7F else f"%{b:02X}" for b in raw)
    before = {"direct": "", "/": "", "//": f"//127.0.0.1:{origin.port}", "http://": origin.url("")}[form]
    origin.paths |= {
        "/go": response(b"", "302 Found", f"Location: {before}{target}"),
        sent.partition("?")[0]: response(BODY),
    }
    url = origin.url(raw.decode("utf-8", "surrogateescape") if form == "direct" else "/go")
    assert fetch(url, policy(origin.port)).data == BODY
    assert origin.requests[-1].path == sent


def test_a_redirect_to_nowhere_is_a_failure(origin: Origin) -> None:
    """Without a `Location` there is nothing to follow."""
    origin.paths["/x"] = response(b"", "302 Found")
    assert type(refusal(origin.url("/x"), policy(origin.port))) is FetchFailed


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────


def test_announced_and_real_sizes_are_both_bounded(origin: Origin) -> None:
    """An honest length is refused at once, an endless body when it passes the limit."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            await writer.drain()

    origin.paths |= {"/huge": then_close(response(b"", length=10**12)), "/endless": endless}
    rules = policy(origin.port, max_bytes=len(BODY))
    assert fetch(origin.url("/ok"), rules).data == BODY
    assert type(refusal(origin.url("/huge"), rules)) is TooLarge
    assert type(refusal(origin.url("/endless"), rules)) is TooLarge
    assert type(refusal(origin.url("/ok"), policy(origin.port, max_bytes=len(BODY) - 1))) is TooLarge


@pytest.mark.parametrize(
    "answer",
    [
        response(BODY, length=len(BODY) + 1),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        b"\x00\xff\x00",
        response(gzip.compress(BODY)[:-4], "200 OK", "Content-Encoding: gzip"),
        response(BODY, "200 OK", "Content-Encoding: br"),
        response(gzip.compress(BODY) + gzip.compress(BODY)[:-4], "200 OK", "Content-Encoding: gzip"),
        response(gzip.compress(BODY) + b"x", "200 OK", "Content-Encoding: gzip"),
    ],
)
def test_broken_answers_are_failures(origin: Origin, answer: bytes) -> None:
    """Truncated, of the wrong length, not HTTP, or packed in what was not asked for: no bytes come out."""
    origin.paths["/x"] = then_close(answer)
    assert type(refusal(origin.url("/x"), policy(origin.port))) is FetchFailed


def test_compressed_bodies_count_unpacked(origin: Origin) -> None:
    """A server that compresses anyway is understood; the limit is for what comes out."""
    origin.paths["/x"] = response(gzip.compress(BODY), "200 OK", "Content-Encoding: gzip")
    assert fetch(origin.url("/x"), policy(origin.port)).data == BODY
    assert type(refusal(origin.url("/x"), policy(origin.port, max_bytes=1000))) is TooLarge


PNG = b"\x89PNG\r\n\x1a\n" + BODY


@pytest.mark.parametrize(
    "token",
    ["", "none", "binary", "UTF-8", "base64", "aws-chunked", "identity, identity", "aws-chunked,gzip",
     "gzip, identity", "x-gzip", "GZIP", "gzip, gzip", "deflate, gzip", "gzip", "br", ", ,", "\xff"],
)  # fmt: skip
@pytest.mark.parametrize("packed", [True, False])
def test_strangers_content_encodings(origin: Origin, token: str, packed: bool) -> None:
    """What object stores repeat of their clients changes nothing, what is packed is unpacked in its order,
    and an image that is not packed is taken as it is."""
    body = PNG
    for coding in token.lower().split(",") if packed else ():
        body = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}.get(
            coding.strip(), bytes
        )(body)
    origin.paths["/x"] = response(body, "200 OK", f"Content-Encoding: {token}")
    assert fetch(origin.url("/x"), policy(origin.port)).data == PNG
    origin.paths["/x"] = response(body, "200 OK", *(f"Content-Encoding: {one}" for one in token.split(",")))
    assert fetch(origin.url("/x"), policy(origin.port)).data == PNG


def test_a_body_waits_for_room(origin: Origin) -> None:
    """Before a body is read, the most that it can take is asked for."""
    origin.paths["/unknown"] = then_close(b"HTTP/1.1 200 OK\r\n\r\n" + BODY)
    asked = []

    async def reserve(size: int) -> None:
        asked.append(size)

    async def go() -> None:
        async with Fetcher(policy(origin.port, max_bytes=10**6)) as fetcher:
            for path in ("/ok", "/unknown"):
                assert (await fetcher.fetch(origin.url(path), reserve=reserve)).data == BODY

    asyncio.run(go())
    assert asked == [len(BODY), 10**6]


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_silent_slow_and_unreachable_servers(origin: Origin) -> None:
    """No answer, a body that stops or drips, headers without end, nobody there: each in bounded time."""

    async def slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(response(b"x", length=1000))
        await silence(reader, writer, request)

    origin.paths |= {"/silent": silence, "/drip": drip(BODY, 10, 0.02), "/head": slow_head}
    first = policy(origin.port, connect_timeout=0.1, first_byte_timeout=0.2)
    error = refusal(origin.url("/silent"), first)
    assert (type(error), "no answer" in str(error)) == (FetchTimeout, True)
    origin.paths["/stall"] = stall
    error = refusal(origin.url("/stall"), policy(origin.port, first_byte_timeout=0.2))
    assert (type(error), "silent" in str(error)) == (FetchTimeout, True)
    error = refusal(origin.url("/drip"), policy(origin.port, rate_grace=0.1, min_rate=1e6))
    assert (type(error), "minimum rate" in str(error)) == (FetchTimeout, True)
    assert type(refusal(origin.url("/head"), policy(origin.port, total_timeout=0.5))) is FetchTimeout
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        assert type(refusal(f"http://127.0.0.1:{port}/", policy(port))) is FetchFailed


def test_a_dead_host_is_left_alone(origin: Origin) -> None:
    """After enough failures in a row its requests fail at once, with the time to wait; other hosts go on."""

    async def go() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
            async with Fetcher(policy(port, origin.port)) as fetcher:
                for i in range(THRESHOLD + 1):
                    with pytest.raises(FetchFailed) as error:
                        await fetcher.fetch(f"http://127.0.0.1:{port}/{i}")
                assert "not answered lately" in str(error.value)
                assert error.value.retry_after is not None
                assert (await fetcher.fetch(origin.url("/ok"))).data == BODY

    asyncio.run(go())


def test_a_redirects_target_is_not_asked_by_more_than_its_share(origin: Origin) -> None:
    """Many hosts redirect to one: it sees no more connections than a host may have, those that have to wait
    for one longer than a host may take to answer do not blame it, and it stays open for the others."""
    gate = threading.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        await asyncio.to_thread(gate.wait, 30)
        writer.write(response(BODY))
        await writer.drain()

    origin.paths |= {"/to": response(b"", "302 Found", f"Location: {origin.url('/slow')}"), "/slow": slow}
    hosts = 3 * THRESHOLD
    now = [0.0]

    async def go() -> None:
        rules = policy(origin.port, per_host=2)
        lookup: Callable[[str], list[str]] = lambda host: ["127.0.0.1"]  # noqa: E731
        async with Fetcher(rules, lookup=lookup, clock=lambda: now[0]) as fetcher:
            urls = [f"http://h{i}.example{i}.test:{origin.port}/to" for i in range(hosts)]
            fetches = [asyncio.create_task(fetcher.fetch(url)) for url in urls]
            async with asyncio.timeout(30):
                while len(fetcher._slots._waiting) < hosts - 2:  # noqa: ASYNC110 — nothing signals it
                    await asyncio.sleep(0.01)
            now[0] += 11
            results = await asyncio.gather(*fetches, return_exceptions=True)
            assert origin.counts["/slow"] == 2
            waited = [r for r in results if "waited for a connection to the host" in str(r)]
            assert len(waited) == hosts - 2
            assert all(isinstance(result, FetchTimeout) for result in results)
            gate.set()
            assert (await fetcher.fetch(origin.url("/slow"))).data == BODY

    asyncio.run(go())


def test_a_slow_look_up_is_not_the_hosts_fault(origin: Origin) -> None:
    """Names that are looked up for too long fail by themselves, and the host they belong to stays open."""
    gate = threading.Event()
    now = [0.0]

    def lookup(host: str) -> list[str]:
        assert gate.wait(30)
        return ["127.0.0.1"]

    async def go() -> None:
        async with Fetcher(policy(origin.port), lookup=lookup, clock=lambda: now[0]) as fetcher:
            url = f"http://slow.example:{origin.port}/ok"
            fetches = [asyncio.create_task(fetcher.fetch(url)) for _ in range(2 * THRESHOLD)]
            await asyncio.sleep(0)
            now[0] += 9
            for result in await asyncio.gather(*fetches, return_exceptions=True):
                assert isinstance(result, FetchTimeout)
                assert "while its name was looked up" in str(result)
            gate.set()
            assert (await fetcher.fetch(url)).data == BODY

    asyncio.run(go())


# ── names and TLS ────────────────────────────────────────────────────────────────────────────────────────


def test_a_name_that_changes_its_address_is_checked_again(origin: Origin) -> None:
    """DNS rebinding: each new connection goes to an address that was checked, and only there."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    origin.paths["/x"] = then_close(response(BODY, "200 OK", "Connection: close"))
    now = [0.0]

    async def go() -> None:
        rules = policy(origin.port)
        async with Fetcher(rules, lookup=lambda host: next(answers), clock=lambda: now[0]) as fetcher:
            url = f"http://rebind.example:{origin.port}/x"
            assert (await fetcher.fetch(url)).data == BODY
            now[0] += 3600
            with pytest.raises(UrlForbidden, match=r"10\.0\.0\.1"):
                await fetcher.fetch(url)

    asyncio.run(go())
    assert origin.requests[0].headers["host"] == f"rebind.example:{origin.port}"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    """TLS is verified."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=127.0.0.1"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):
                context.wrap_socket(client, server_side=True).recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        error = refusal(f"https://127.0.0.1:{port}/", policy(port))
        thread.join(60)
    assert type(error) is FetchFailed
    assert "certificate" in str(error)
