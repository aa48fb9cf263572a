"""`imgclust-worker wall`: a small read-only page over `Feed`, for people who want to see what comes in.

It is the example of a feed reader: Redis is all it knows. The page's few files come from `web`, what
it shows from `/events` (server-sent events), `/cluster` and `/tag` (JSON). Nothing that came from an upload
ever becomes markup, and the browser loads pictures only from where `WORKER_WALL_IMAGES` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import mimetypes
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from imgclust.fetching.urls import FetchPolicy
from worker.feed import AsyncFeed
from worker.http.answers import DATA_HEADERS, guard, has_etag, json_answer, refused
from worker.http.server import Limits, listening
from worker.messages.tag import Tag
from worker.messages.upload import MAX_ID_CHARS
from worker.settings.values import ImageSource
from worker.telemetry.metrics import Metrics
from worker.wall.api import Api
from worker.wall.asking import ask
from worker.wall.board import Board, Reading, Shown
from worker.wall.image_sources import image_policy, picture_url

FILES = Path(__file__).parent / "web"
STRIP = 9  # pictures of each cluster on the first page
PAGE = 60  # pictures of one cluster at a time
MINUTE_MS = 60_000
LIMITS = Limits()
MAX_STREAMS = 128  # the other half is for those who ask for a page
SEND_SECONDS = 20.0  # who does not take an event for so long has gone
PING_SECONDS = 15.0
REDIS_SECONDS = 2.0


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
        self,
        feed: AsyncFeed,
        sources: tuple[ImageSource, ...],
        policy: FetchPolicy,
        loopback: str = "",
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._metrics.wall_streams.set_function(lambda: self._streams)
        self._feed = feed
        self._sources = sources
        self._policy = policy
        self._host = loopback
        self._headers = headers(sources)
        self._board = Board(self._look)
        self._streams = 0
        self._files = {f"/{file.name}": _file(file) for file in sorted(FILES.iterdir())}
        self._files["/"] = self._files.pop("/index.html")

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[str]:
        """Serve while the block runs; yields `host:port`.

        Raises:
            StartError: the address cannot be listened on.
        """
        looking = asyncio.create_task(self._board.run())
        try:
            async with listening(
                self.application(), host, port, setting="WORKER_WALL", limits=LIMITS
            ) as address:
                yield address
        finally:
            looking.cancel()

    def application(self) -> web.Application:
        guarded = guard(self._headers, self._host, "WORKER_WALL", self._count)
        app = web.Application(middlewares=[guarded], client_max_size=1024)
        Api(self._feed).add_to(app)
        app.router.add_get("/events", self._events)
        app.router.add_get("/cluster", self._cluster)
        app.router.add_get("/tag", self._tag)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._scraped)
        for path in self._files:
            app.router.add_get(path, self._static)
        app.on_shutdown.append(self._end_streams)
        self._open: set[asyncio.Task[Any]] = set()
        return app

    # ── what is read ─────────────────────────────────────────────────────────────────────────────────────

    async def _look(self) -> Reading:
        """All clusters and their newest pictures."""
        taxonomy = await self._feed.taxonomy()
        minute_ago = int(time.time() * 1000) - MINUTE_MS
        found = await self._feed.overview(STRIP, minute_ago, taxonomy) if taxonomy else {}
        shown = {}
        for number, latest in found.items():
            facts = {
                "id": number,
                "name": latest.cluster.name,
                "model": latest.cluster.model,
                "group": latest.cluster.group,
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

    # ── what is answered ─────────────────────────────────────────────────────────────────────────────────

    async def _static(self, request: web.Request) -> web.StreamResponse:
        body, kind, etag = self._files[request.path]
        if has_etag(request, etag):
            response = web.Response(status=304)
        else:
            response = web.Response(body=body, headers={"Content-Type": kind})
            response.enable_compression()
        response.headers.update({"ETag": etag, "Cache-Control": "no-cache"})
        return response

    def _count(self, status: int) -> None:
        outcome = "ok" if status < 400 else "refused" if status < 500 else "failed"
        self._metrics.wall_requests[outcome].inc()

    async def _scraped(self, request: web.Request) -> web.StreamResponse:
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics.registry), headers={"Content-Type": kind})

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        return json_answer({"alive": True})

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        await ask(self._feed.taxonomy())
        return json_answer({"ready": True})

    async def _tag(self, request: web.Request) -> web.StreamResponse:
        upload_id = request.query.get("id", "")
        if not 1 <= len(upload_id) <= MAX_ID_CHARS:
            raise refused(web.HTTPBadRequest, f"an id has 1 to {MAX_ID_CHARS} characters")
        found = await ask(self._feed.get([upload_id]))
        if upload_id not in found:
            raise refused(
                web.HTTPNotFound, "no tag: not tagged yet, deleted, a dead letter, or older than 30 days"
            )
        return json_answer(self._whole(found[upload_id]))

    async def _cluster(self, request: web.Request) -> web.StreamResponse:
        try:
            number = int(request.query.get("id", ""))
            cursor = request.query.get("cursor")
            page = await ask(self._feed.latest(number, PAGE, cursor))
        except ValueError as error:
            raise refused(web.HTTPBadRequest, str(error)) from None
        return json_answer({"tags": [self._small(tag) for tag in page.tags], "cursor": page.cursor})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """The board, whole and then what changes, for as long as the browser listens."""
        if self._streams >= MAX_STREAMS:
            raise refused(web.HTTPServiceUnavailable, f"{MAX_STREAMS} are looking already", retry=10)
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
        **DATA_HEADERS,
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }


def _file(file: Path) -> tuple[bytes, str, str]:
    """A file of the page: its bytes, type and ETag."""
    body = file.read_bytes()
    kind = {".js": "text/javascript"}.get(file.suffix) or mimetypes.guess_type(file.name)[0]
    return body, f"{kind}; charset=utf-8", f'"{hashlib.sha256(body).hexdigest()[:16]}"'
