"""The demo's web server: pictures by number, and paths that answer as badly as the internet does.

It listens on 127.0.0.1 alone, and no part of a request ever becomes a path of the file system.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web
from PIL import Image

from worker.errors import StartError

START_SECONDS = 10.0
HELD_SECONDS = 10.0  # `slow` answers after so long at the latest
HUGE_SIDE = 8000  # 64 million pixels, above the worker's WORKER_MAX_PIXELS of 50 million
LONG_BYTES = 24 * 1024 * 1024  # above the worker's WORKER_FETCH_MAX_BYTES of 20 MiB

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ImageServer:
    """Serves `/images/<number>` from a list of files, and the broken ones below `/broken/`.

    A context manager; it runs in a thread of its own.

    Args:
        files: number → file.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._broken = broken_bodies()
        self._loop = asyncio.new_event_loop()
        self._release = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="images", daemon=True)
        self._runner: web.AppRunner | None = None
        self.port = 0

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.port}/images/{number}"

    def broken_url(self, name: str) -> str:
        """`name`: a key of `broken_bodies`, or `missing`, `error`, `long`, `slow`, `after-slow`."""
        return f"http://127.0.0.1:{self.port}/broken/{name}"

    def __enter__(self) -> ImageServer:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(START_SECONDS)
        except OSError as error:
            raise StartError(f"the demo's image server cannot listen on 127.0.0.1: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get(r"/images/{number:\d{1,9}}", self._image)
        app.router.add_get("/broken/error", self._error)
        app.router.add_get("/broken/long", self._long)
        app.router.add_get("/broken/slow", self._slow)
        app.router.add_get("/broken/after-slow", self._after_slow)
        app.router.add_get("/broken/{name}", self._broken_body)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        self._release.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _image(self, request: web.Request) -> web.StreamResponse:
        number = int(request.match_info["number"])
        if number >= len(self._files):
            raise web.HTTPNotFound
        return web.FileResponse(self._files[number])

    async def _broken_body(self, request: web.Request) -> web.StreamResponse:
        body = self._broken.get(request.match_info["name"])
        if body is None:
            raise web.HTTPNotFound
        return web.Response(body=body, content_type="image/jpeg")

    async def _error(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPServiceUnavailable

    async def _long(self, request: web.Request) -> web.StreamResponse:
        """A body that does not say how long it is."""
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client has had enough
            for _ in range(LONG_BYTES // 65536):
                await response.write(bytes(65536))
        return response

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        """The first picture, but only once `after-slow` was asked for: an upload that is being fetched while
        its successor arrives, however fast or slow the machine is."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._release.wait(), HELD_SECONDS)
        return web.FileResponse(self._files[0])

    async def _after_slow(self, request: web.Request) -> web.StreamResponse:
        self._release.set()
        return web.FileResponse(self._files[0])


def broken_bodies() -> dict[str, bytes]:
    """Name → what is sent as if it were a JPEG."""
    picture = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(picture, "JPEG")
    huge = io.BytesIO()
    Image.new("1", (HUGE_SIDE, HUGE_SIDE)).save(huge, "PNG")
    return {
        "truncated": picture.getvalue()[: len(picture.getvalue()) // 2],
        "text": b"This is no picture, whatever its name says.\n",
        "huge": huge.getvalue(),
    }
