"""A web server for tests that says exactly what it is told to, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter, "Request"], Awaitable[None]]


class Request:
    """The head of a request: path with query, and the headers in lower case."""

    def __init__(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = lines[0].split(" ", 2)
        pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
        self.headers = {name.strip().lower(): value.strip() for name, value in pairs}


def response(body: bytes = b"", status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """A response with `Content-Length`, true unless `length` says otherwise."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1") + body


class Origin:
    """Serves `paths` (path without query → raw response or handler) on loopback, from a thread of its own.

    Attributes:
        port: that it listens on.
        connections: accepted so far.
        requests: heads received so far.
        most_at_once: requests that were being answered at the same time, at most.
    """

    def __init__(
        self, paths: dict[str, bytes | Handler] | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.paths: dict[str, bytes | Handler] = dict(paths or {})
        self.host = host
        self.connections = 0
        self.requests: list[Request] = []
        self.counts: Counter[str] = Counter()
        self.most_at_once = self._now = 0
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, host, port, backlog=512)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def url(self, path: str) -> str:
        return f"http://{self.host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = Request((await reader.readuntil(b"\r\n\r\n"))[:-4])
                self.requests.append(request)
                self.counts[request.path] += 1
                self._now += 1
                self.most_at_once = max(self.most_at_once, self._now)
                try:
                    await self._answer(reader, writer, request)
                finally:
                    self._now -= 1
                if writer.is_closing():
                    return
        writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request
    ) -> None:
        answer = self.paths.get(request.path.partition("?")[0], response(b"", "404 Not Found"))
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(reader, writer, request)

    @contextlib.contextmanager
    def running(self) -> Iterator[Origin]:
        self._thread.start()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(60)
            self._server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()


def drip(body: bytes, chunk: int, pause: float, *headers: str) -> Handler:
    """Sends the body a few bytes at a time."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(response(b"", "200 OK", *headers, length=len(body)))
        for start in range(0, len(body), chunk):
            writer.write(body[start : start + chunk])
            await writer.drain()
            await asyncio.sleep(pause)

    return handle


def then_close(answer: bytes) -> Handler:
    """Sends bytes and closes the connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    return handle


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> None:
    """Never answers; ends when the client goes."""
    await reader.read(1)
    writer.close()
