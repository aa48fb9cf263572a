"""A web server in a process of its own that gives pictures from memory, at little cost: about 30 µs each.

It shares the processor with what is measured, so a full web framework (300 µs a request) would be
measured too.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection


class _Pictures(asyncio.Protocol):
    """HTTP/1.1, GET only: `/0`, `/1`, … are the pictures. Knows what the benchmarks' own clients send."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self._answers = answers
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            number = int(head[: head.index(b" HTTP/")].rpartition(b"/")[2])
            self._transport.write(self._answers[number])
            if b"connection: close" in head.lower():
                self._transport.close()


def _serve(pictures: Sequence[bytes], told: Connection) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    answers = [head % len(picture) + picture for picture in pictures]

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: _Pictures(answers), "127.0.0.1", 0, backlog=1024
        )
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


@contextlib.contextmanager
def serving(pictures: Sequence[bytes]) -> Iterator[list[str]]:
    """The pictures' URLs, while the block runs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(pictures, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(60):
            raise SystemExit("the image server did not start within 60 s")
        port = ours.recv()
        yield [f"http://127.0.0.1:{port}/{i}" for i in range(len(pictures))]
    finally:
        process.terminate()
        process.join()
