"""A small HTTP server on one address: bounded in connections and in patience."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from worker.errors import StartError


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take.

    Attributes:
        connections: open at once; one more is refused with 503.
        idle: seconds after which a connection without a request, or with half of one, is closed.
        line: bytes of a request's first line.
    """

    connections: int = 256
    idle: float = 15.0
    line: int = 65_536


class _NoStrangers(logging.Filter):
    """Leaves out what clients did wrong: they get 400, and anybody could fill the log with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], BadHttpMessage))


server_log = logging.getLogger("worker.http")
server_log.addFilter(_NoStrangers())


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, host: str, port: int, *, setting: str, limits: Limits | None = None
) -> AsyncIterator[str]:
    """Serve while the block runs; yields `host:port`.

    Args:
        setting: the one that names the address, for the error.

    Raises:
        StartError: the address cannot be listened on.
    """
    limits = limits or Limits()
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,  # a stream ends with its browser, not at the next event
        keepalive_timeout=limits.idle,
        shutdown_timeout=1.0,
        max_line_size=limits.line,
        logger=server_log,
    )
    await runner.setup()
    try:
        loop = asyncio.get_running_loop()
        factory = functools.partial(_connection, runner, limits.connections)
        server = await _bind(loop, factory, host, port, setting)
        try:
            bound, number = server.sockets[0].getsockname()[:2]
            yield f"[{bound}]:{number}" if ":" in bound else f"{bound}:{number}"
        finally:
            server.close()
    finally:
        await runner.cleanup()


async def _bind(
    loop: asyncio.AbstractEventLoop,
    factory: functools.partial[asyncio.BaseProtocol],
    host: str,
    port: int,
    setting: str,
) -> asyncio.Server:
    try:
        return await loop.create_server(factory, host, port)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port} ({error.strerror}); "
            f"set {setting} to a free address, or to port 0 for any"
        ) from error


class _Refusal(asyncio.Protocol):
    """One connection too many: answered, and closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 10\r\n\r\n")
        transport.close()


def _connection(runner: web.AppRunner, most: int) -> asyncio.BaseProtocol:
    server = runner.server
    assert server is not None
    return _Refusal() if len(server.connections) >= most else server()
