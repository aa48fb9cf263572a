"""The image server of the fault tests, a process of its own: `python server.py PORT`.

/ok/0/CLUSTER/NUMBER      a picture in the colour of its cluster
/slow/SECONDS/…           the same, after so long
/flap/TIMES/…             503 so many times, then the picture
/fail/…  /missing/…       503, 404
/text/…  /cut/…           no picture, half of one
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections import Counter

from PIL import Image

CLASSES = 16
SIDE = 16


def grey_of(cluster: int) -> int:
    """The colour that says a cluster; far enough from the next one for any resizing."""
    return 8 + 15 * cluster


def picture(cluster: int, side: int = SIDE) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (grey_of(cluster),) * 3).save(file, "PNG")
    return file.getvalue()


def response(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Images:
    """Answers by path."""

    def __init__(self) -> None:
        self._pictures = [response(picture(cluster)) for cluster in range(CLASSES)]
        self._cut = response(picture(3, 200)[:150])
        self._asked: Counter[bytes] = Counter()

    def answer(self, path: bytes) -> tuple[float, bytes]:
        """Seconds to wait, and the response."""
        kind, extra, cluster = path.split(b"/")[1:4]
        good = self._pictures[int(cluster)]
        if kind == b"slow":
            return float(extra), good
        if kind == b"flap":
            self._asked[path] += 1
            return 0, good if self._asked[path] > int(extra) else response(b"", "503 Service Unavailable")
        if kind == b"fail":
            return 0, response(b"", "503 Service Unavailable")
        if kind == b"missing":
            return 0, response(b"", "404 Not Found")
        if kind == b"text":
            return 0, response(b"this is no picture")
        return 0, self._cut if kind == b"cut" else good


class Connection(asyncio.Protocol):
    """HTTP/1.1, GET only, one request after the other."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            wait, answer = self._images.answer(head.split(b" ", 2)[1])
            if wait:
                asyncio.get_running_loop().call_later(wait, self._transport.write, answer)
            else:
                self._transport.write(answer)
            if b"connection: close" in head.lower():
                self._transport.close()


async def serve(port: int) -> None:
    images = Images()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(images), "0.0.0.0", port, backlog=1024, reuse_address=True
    )
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
