"""`imgclust-worker wall`: a small read-only page over `Feed`, for people who want to see what comes in.

It is the example of a feed reader: Redis is all it knows. The page's few files come from `web`, what
it shows from `/events` (server-sent events), `/cluster` and `/tag` (JSON). Nothing that came from an upload
ever becomes markup, and the browser loads pictures only from where `WORKER_WALL_IMAGES` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import ipaddress
import mimetypes
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import redis
from aiohttp import web

from imgclust.fetching.urls import FetchPolicy
from worker.errors import StartError
from worker.feed import Feed
from worker.messages.tag import Tag
from worker.messages.upload import MAX_ID_CHARS
from worker.settings.values import ImageSource
from worker.telemetry import log as logs
from worker.wall.board import Board, Reading, Shown
from worker.wall.image_sources import image_policy, picture_url

log = logs.get(__name__)

FILES = Path(__file__).parent / "web"
STRIP = 9  # pictures of each cluster on the first page
PAGE = 60  # pictures of one cluster at a time
MINUTE_MS = 60_000
MAX_CONNECTIONS = 256
MAX_STREAMS = 128  # the other half is for those who ask for a page
IDLE_SECONDS = 15  # a connection without a request, or with half of one, is closed after so long
SEND_SECONDS = 20.0  # who does not take an event for so long has gone
PING_SECONDS = 15.0
REDIS_SECONDS = 2.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Wall:
    """The web application.

    Args:
        feed: what to read.
        sources: where browsers may load pictures from.
        policy: what the worker may fetch: no other URL becomes a picture.
        loopback: the host that is listened on. On a loopback address only requests for such a name are
            answered, so that no page of the internet can read this one by a name that leads here.
    """

    def __init__(
        self, feed: Feed, sources: tuple[ImageSource, ...], policy: FetchPolicy, loopback: str = ""
    ) -> None:
        self._feed = feed
        self._sources = sources
        self._policy = policy
        self._only_loopback = _is_loopback(loopback)
        self._headers = headers(sources)
        self._board = Board(self._look)
        self._streams = 0
        self._asking = asyncio.Semaphore(4)  # threads that wait for Redis
        self._files = {f"/{file.name}": _file(file) for file in sorted(FILES.iterdir())}
        self._files["/"] = self._files.pop("/index.html")

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[str]:
        """Serve while the block runs; yields `host:port`.

        Raises:
            StartError: the address cannot be listened on.
        """
        runner = web.AppRunner(
            self.application(),
            access_log=None,
            handler_cancellation=True,  # a stream ends with its browser, not at the next event
            keepalive_timeout=IDLE_SECONDS,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        looking = asyncio.create_task(self._board.run())
        try:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(functools.partial(_connection, runner), host, port)
            try:
                bound, number = server.sockets[0].getsockname()[:2]
                yield f"[{bound}]:{number}" if ":" in bound else f"{bound}:{number}"
            finally:
                server.close()
        except OSError as error:
            raise StartError(
                f"the wall cannot be served on {host}:{port} ({error.strerror}); "
                "set WORKER_WALL to a free address, or to port 0 for any"
            ) from error
        finally:
            looking.cancel()
            await runner.cleanup()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=1024)
        app.router.add_get("/events", self._events)
        app.router.add_get("/cluster", self._cluster)
        app.router.add_get("/tag", self._tag)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        for path in self._files:
            app.router.add_get(path, self._static)
        app.on_shutdown.append(self._end_streams)
        self._open: set[asyncio.Task[Any]] = set()
        return app

    # ── what is read ─────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> Reading:
        """All clusters and their newest pictures; called in a thread."""
        taxonomy = self._feed.taxonomy()
        minute_ago = int(time.time() * 1000) - MINUTE_MS
        found = self._feed.overview(STRIP, minute_ago, taxonomy) if taxonomy else {}
        shown = {}
        for number, latest in found.items():
            facts = {
                "id": number,
                "name": latest.cluster.name,
                "model": latest.cluster.model,
                "count": latest.count,
                "recent": latest.recent,
            }
            shown[number] = Shown(facts, [self._small(tag) for tag in latest.tags])
        return Reading(taxonomy, shown)

    def _small(self, tag: Tag) -> dict[str, Any]:
        """What a picture in a strip needs."""
        return {
            "id": tag.id,
            "image": picture_url(tag.url, self._sources, self._policy),
            "cluster": tag.cluster,
            "probability": tag.probability,
            "novel": tag.novel,
            "uploaded_at": tag.uploaded_at,
            "tagged_at": tag.tagged_at,
        }

    def _whole(self, tag: Tag) -> dict[str, Any]:
        """All that a tag says."""
        return {
            **orjson.loads(tag.to_json()),
            "image": picture_url(tag.url, self._sources, self._policy),
            "delay": (tag.tagged_at - tag.uploaded_at) / 1000,
        }

    async def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer of Redis, from a thread.

        Raises:
            HTTPServiceUnavailable: Redis does not answer.
        """
        async with self._asking:
            try:
                return await asyncio.to_thread(question)
            except redis.RedisError as error:
                log.debug("Redis cannot be read", error=str(error))
                raise _refused(web.HTTPServiceUnavailable, "Redis does not answer") from None

    # ── what is answered ─────────────────────────────────────────────────────────────────────────────────

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse strange names; put the headers on every answer, errors too."""
        try:
            if self._only_loopback and not _is_loopback(_host_name(request.headers.get("Host", ""))):
                raise _refused(
                    web.HTTPMisdirectedRequest,
                    "this page is for this machine alone; WORKER_WALL can name another address",
                )
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(self._headers)
            raise
        if not response.prepared:
            for name, value in self._headers.items():
                response.headers.setdefault(name, value)
        return response

    async def _static(self, request: web.Request) -> web.StreamResponse:
        body, kind, etag = self._files[request.path]
        if etag in request.headers.get("If-None-Match", ""):
            response = web.Response(status=304)
        else:
            response = web.Response(body=body, headers={"Content-Type": kind})
            response.enable_compression()
        response.headers.update({"ETag": etag, "Cache-Control": "no-cache"})
        return response

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        return _json({"alive": True})

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        await self._ask(self._feed.taxonomy)
        return _json({"ready": True})

    async def _tag(self, request: web.Request) -> web.StreamResponse:
        upload_id = request.query.get("id", "")
        if not 1 <= len(upload_id) <= MAX_ID_CHARS:
            raise _refused(web.HTTPBadRequest, f"an id has 1 to {MAX_ID_CHARS} characters")
        found: dict[str, Tag] = await self._ask(lambda: self._feed.get([upload_id]))
        if upload_id not in found:
            raise _refused(
                web.HTTPNotFound, "no tag: not tagged yet, deleted, a dead letter, or older than 30 days"
            )
        return _json(self._whole(found[upload_id]))

    async def _cluster(self, request: web.Request) -> web.StreamResponse:
        try:
            number = int(request.query.get("id", ""))
            cursor = request.query.get("cursor")
            page = await self._ask(lambda: self._feed.latest(number, PAGE, cursor))
        except ValueError as error:
            raise _refused(web.HTTPBadRequest, str(error)) from None
        return _json({"tags": [self._small(tag) for tag in page.tags], "cursor": page.cursor})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """The board, whole and then what changes, for as long as the browser listens."""
        if self._streams >= MAX_STREAMS:
            raise _refused(web.HTTPServiceUnavailable, f"{MAX_STREAMS} are looking already", retry=10)
        response = web.StreamResponse(
            headers={**self._headers, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        task = asyncio.current_task()
        assert task is not None
        self._streams += 1
        self._open.add(task)
        try:
            with self._board.watching(), contextlib.suppress(ConnectionError, TimeoutError):
                await response.prepare(request)
                await self._stream(response)
        finally:
            self._open.discard(task)
            self._streams -= 1
        return response

    async def _stream(self, response: web.StreamResponse) -> None:
        version = 0
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    version, message = await self._board.after(version)
            except TimeoutError:
                text = b": still here\n\n"
            else:
                text = b"data: " + orjson.dumps(message) + b"\n\n"
            async with asyncio.timeout(SEND_SECONDS):
                await response.write(text)

    async def _end_streams(self, app: web.Application) -> None:
        for task in self._open:
            task.cancel()


def headers(sources: Iterable[ImageSource]) -> dict[str, str]:
    """What every answer carries: the page may run its own script, load pictures from the sources, ask this
    server, and do nothing else; nobody may frame it."""
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {image_policy(tuple(sources))}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Referrer-Policy": "no-referrer",
        "Server": "imgclust",
        "X-Content-Type-Options": "nosniff",
    }


class _Refusal(asyncio.Protocol):
    """One connection too many: told so, and closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 10\r\n\r\n")
        transport.close()


def _connection(runner: web.AppRunner) -> asyncio.BaseProtocol:
    server = runner.server
    assert server is not None
    return _Refusal() if len(server.connections) >= MAX_CONNECTIONS else server()


def _refused(kind: type[web.HTTPException], reason: str, retry: int | None = None) -> web.HTTPException:
    more = {} if retry is None else {"Retry-After": str(retry)}
    text = orjson.dumps({"error": reason}).decode()
    return kind(text=text, content_type="application/json", headers=more)


def _json(value: Mapping[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


def _file(file: Path) -> tuple[bytes, str, str]:
    """A file of the page: its bytes, type and ETag."""
    body = file.read_bytes()
    kind = {".js": "text/javascript"}.get(file.suffix) or mimetypes.guess_type(file.name)[0]
    return body, f"{kind}; charset=utf-8", f'"{hashlib.sha256(body).hexdigest()[:16]}"'


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
