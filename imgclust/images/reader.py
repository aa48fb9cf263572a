"""Sources → bytes, for threads: files are opened, URLs are fetched on an event loop of their own."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from imgclust.errors import FetchFailed, NotFound, TooLarge
from imgclust.images import containers
from imgclust.images.sources import Item

if TYPE_CHECKING:
    from imgclust.fetching.fetcher import Fetcher
    from imgclust.fetching.urls import FetchPolicy

_HEAD = 4096  # enough to tell the format


class Reader:
    """Reads images; a context manager, used from many threads at once.

    Args:
        policy: what may be fetched; by default http and https from public addresses.
    """

    def __init__(self, policy: FetchPolicy | None = None) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stack = AsyncExitStack()
        self._fetcher: Fetcher | None = None

    def read(self, item: Item, max_bytes: int) -> bytes:
        """An image's bytes.

        Raises:
            FetchError: they could not be had.
            UnsupportedFormat: a file whose first bytes are no image's; the rest is not read.
        """
        if not item.is_url:
            return _read_file(item.source, max_bytes)
        loop, fetcher = self._fetching()
        return asyncio.run_coroutine_threadsafe(fetcher.fetch(item.source), loop).result().data

    def _fetching(self) -> tuple[asyncio.AbstractEventLoop, Fetcher]:
        """The event loop and its fetcher, started by the first URL: a run over files loads no aiohttp."""
        with self._lock:
            if self._loop is None or self._fetcher is None:
                from imgclust.fetching.fetcher import Fetcher
                from imgclust.fetching.urls import FetchPolicy

                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="imgclust-fetch", daemon=True
                )
                self._thread.start()
                entered = self._stack.enter_async_context(Fetcher(self._policy or FetchPolicy()))
                self._fetcher = asyncio.run_coroutine_threadsafe(entered, self._loop).result()
            return self._loop, self._fetcher

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._fetcher = None


def _read_file(path: str, max_bytes: int) -> bytes:
    try:
        # without O_NONBLOCK, opening a pipe that nobody writes to waits forever
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FetchFailed("not a regular file")
            head = file.read(_HEAD)
            containers.sniff(head)
            if status.st_size > max_bytes:
                raise TooLarge(f"the file has {status.st_size} bytes, at most {max_bytes} are read")
            return head + file.read(max_bytes)
    except FileNotFoundError:
        raise NotFound("there is no such file") from None
    except ValueError:  # a NUL, or a surrogate that stands for no byte
        raise NotFound("no file can have this name") from None
    except OSError as error:
        raise FetchFailed(f"the file cannot be read: {error.strerror or error}") from None
