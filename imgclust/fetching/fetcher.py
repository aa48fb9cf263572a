"""URL → bytes: http and https from public addresses, files from one folder, objects of named buckets.

The URL and the server are both hostile. What keeps them in bounds:

1. The URL is checked before anything else (`imgclust.fetching.urls`), again for every redirect.
2. The address that is connected to is checked where the socket is made, so neither a name that resolves to
   something else by then nor a literal address gets round it. Names are resolved once, by us.
3. Bytes are counted while they arrive, against limits of size, time and rate; no header is believed when it
   announces less, `Content-Type` not at all.
4. Whatever aiohttp raises is translated at one border (`imgclust.fetching.translate`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any

import aiohttp
from yarl import URL

from imgclust.errors import FetchError, FetchFailed, FetchTimeout, NotFound, TooLarge, UrlForbidden
from imgclust.fetching.breaker import Breaker
from imgclust.fetching.content_coding import codings, undo
from imgclust.fetching.deadlines import Deadlines, Watch
from imgclust.fetching.local_files import read_file
from imgclust.fetching.object_store import SCHEME as S3
from imgclust.fetching.object_store import Buckets, split
from imgclust.fetching.resolver import CheckedResolver, Lookup, system_lookup
from imgclust.fetching.slots import Slots
from imgclust.fetching.translate import translate
from imgclust.fetching.urls import FetchPolicy, UrlChecker, redirected, shown

__all__ = ["FetchPolicy", "Fetched", "Fetcher"]

HEADERS = {
    "User-Agent": "imgclust (+https://pypi.org/project/imgclust/)",
    # what `imgclust.images.decode` reads everywhere; a CDN that negotiates must not send something newer
    "Accept": "image/jpeg, image/png, image/webp, image/gif, */*;q=0.1",
    "Accept-Encoding": "identity",
}
KEEPALIVE = 15.0  # seconds; shorter than the usual 60–75 of servers, so they rarely close under a request
MAX_RETRY_AFTER = 24 * 3600.0

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_GONE = frozenset((404, 410))


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes behind a URL; `redirects` is how many hops led there."""

    data: bytes = dataclasses.field(repr=False)
    redirects: int = 0


ReserveBytes = Callable[[int], Awaitable[None]]


async def _unbounded(size: int) -> None:
    """Take any number of bytes."""


class Fetcher:
    """Fetches images; an async context manager that holds the connections.

    Args:
        policy: what may be fetched.
        connections: at once, over all hosts.
        lookup: host name → addresses, blocking; the system's by default.
        clock: monotonic seconds.
        wall: seconds since the epoch, for `Retry-After` dates.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        *,
        connections: int = 64,
        lookup: Lookup = system_lookup,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self._connections = connections
        self._lookup = lookup
        self._clock = clock
        self._wall = wall
        self._urls = UrlChecker(policy)
        self._breaker = Breaker(clock)
        self._deadlines = Deadlines(policy, clock)
        # a proxy is the only place that is connected to, and the operator named it
        self._permits = (lambda address: True) if policy.proxy else policy.permits_address
        self._buckets: Buckets | None = None
        self._session: aiohttp.ClientSession
        self._slots: Slots
        self._resolver: CheckedResolver

    async def __aenter__(self) -> Fetcher:
        policy = self.policy
        if policy.allow_buckets:
            self._buckets = Buckets(policy)
        self._resolver = CheckedResolver(
            self._permits, lookup=self._lookup, patience=policy.total_timeout, clock=self._clock
        )
        share = policy.host_share(self._connections)
        self._slots = Slots(self._connections, lambda host: share)
        connector = aiohttp.TCPConnector(
            limit=0,  # connections are counted by `_slots`, so that it is known who waits for one
            resolver=self._resolver,
            use_dns_cache=False,  # the resolver has its own, which remembers failures too
            keepalive_timeout=KEEPALIVE,
            socket_factory=self._open_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=policy.connect_timeout),
            auto_decompress=False,
            trust_env=False,  # neither proxies nor .netrc
            proxy=policy.proxy,
        )
        self._deadlines.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.stop()
        await self._session.close()
        await self._resolver.close()

    def _open_socket(self, info: Any) -> socket.socket:
        """The last word on where a connection goes: the kernel is given exactly this address."""
        family, kind, protocol, _, address = info
        if not self._permits(address[0]):
            raise UrlForbidden(f"the address {address[0]!a} is not public")
        return socket.socket(family, kind, protocol)

    async def fetch(self, url: str, *, reserve: ReserveBytes = _unbounded) -> Fetched:
        """Fetch one image's bytes.

        Args:
            url: http, https, or `file:` and `s3:` where the policy allows a folder or a bucket.
            reserve: is awaited with the most bytes that will be held, before a body is read.

        Raises:
            FetchError: the one subclass that names the reason; nothing else.
        """
        watch = Watch(asyncio.timeout(None), self._clock())
        self._deadlines.add(watch)
        try:
            async with watch.timeout:
                if url[:5].lower() == "file:":
                    return Fetched(await asyncio.to_thread(read_file, url, self.policy))
                if url[: len(S3)].lower() == S3:
                    return Fetched(await self._object(url, reserve, watch))
                return await self._download(url, reserve, watch)
        except Exception as error:
            if watch.overdue and isinstance(error, TimeoutError):
                raise FetchTimeout(f"{watch.overdue}: {shown(url)}") from None
            raise translate(error, url) from None
        finally:
            self._deadlines.remove(watch)

    async def _object(self, url: str, reserve: ReserveBytes, watch: Watch) -> bytes:
        if self._buckets is None:
            split(url, self.policy)  # raises the reason
            raise AssertionError("buckets are allowed, but were not opened")
        watch.heard = self._clock()
        size, encoding, pieces = await self._buckets.open(url)
        applied, limit = codings([encoding]), self.policy.max_bytes
        watch.queue, watch.heard = "memory for its body", math.inf
        await reserve(limit if applied else size)
        return undo(await self._read(pieces, limit, watch), applied, limit)

    async def _download(self, url: str, reserve: ReserveBytes, watch: Watch) -> Fetched:
        target = self._urls.check(url)
        for hop in range(self.policy.max_redirects + 1):
            host = (target.raw_host, target.port)  # each hop has to ask for a connection of its own
            if not self._slots.take(host):
                watch.queue, watch.heard = "a connection to the host", math.inf
                await self._slots.wait(host)
                watch.queue = ""
            try:
                async with await self._ask(target, watch) as response:
                    if response.status not in _REDIRECTS:
                        self._check_status(response)
                        return Fetched(await self._body(response, reserve, watch), hop)
                    target = self._next_hop(target, response)
            finally:
                self._slots.release(host)
        raise FetchFailed(f"more than {self.policy.max_redirects} redirects, from {shown(url)}")

    async def _ask(self, url: URL, watch: Watch) -> aiohttp.ClientResponse:
        """The answer's head; a host that has not given one for many times in a row is not asked."""
        host = url.raw_authority
        if wait := self._breaker.wait(host):
            raise FetchFailed(f"the host {shown(host)} has not answered lately", retry_after=wait)
        watch.heard = self._clock()
        try:
            response = await self._session.get(url, allow_redirects=False)
        except FetchError:  # our own, of the address or the look-up: the host was not asked
            raise
        except asyncio.CancelledError:
            if self._resolver.looks_up(url.raw_host or ""):
                watch.overdue = watch.overdue and f"{watch.overdue}, while its name was looked up"
            elif watch.overdue and watch.blames(self._clock(), self.policy):  # else the caller cancelled it
                self._breaker.failed(host)
            raise
        except Exception:
            self._breaker.failed(host)
            raise
        self._breaker.answered(host)
        return response

    def _next_hop(self, base: URL, response: aiohttp.ClientResponse) -> URL:
        location = response.headers.get("Location")
        if not location:
            raise FetchFailed(
                f"a redirect (HTTP {response.status}) without a target, from {shown(str(base))}"
            )
        return self._urls.check(redirected(base, location))

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        """Only a complete answer will do; see docs/decisions/0041 for what becomes of the others."""
        status = response.status
        if status == 200:
            return
        if status in _GONE:
            raise NotFound(f"the server has no such image (HTTP {status})")
        wait = retry_after(response.headers.get("Retry-After"), self._wall())
        raise FetchFailed(f"the server answered HTTP {status}", retry_after=wait)

    async def _body(self, response: aiohttp.ClientResponse, reserve: ReserveBytes, watch: Watch) -> bytes:
        limit = self.policy.max_bytes
        announced = response.content_length
        if announced is not None and announced > limit:
            raise TooLarge(f"the server announces {announced} bytes, at most {limit} are taken")
        applied = codings(response.headers.getall("Content-Encoding", ()))
        watch.queue, watch.heard = "memory for its body", math.inf
        await reserve(limit if announced is None or applied else announced)
        data = await self._read(response.content.iter_any(), limit, watch)
        return undo(data, applied, limit)

    async def _read(self, content: AsyncIterator[Any], limit: int, watch: Watch) -> bytes:
        chunks: list[bytes] = []
        watch.queue = ""
        watch.body_since = watch.heard = self._clock()
        async for chunk in content:
            watch.heard = self._clock()
            watch.size += len(chunk)
            if watch.size > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def retry_after(value: str | None, now: float) -> float | None:
    """A `Retry-After` header (RFC 9110 10.2.3) as seconds from `now`, at most a day; None for none."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), MAX_RETRY_AFTER)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, moment - now), MAX_RETRY_AFTER)
