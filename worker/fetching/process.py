"""One fetcher process: URLs come in, decoded pictures go into shared memory, outcomes go out.

Started by `worker.fetching.pool` as `python -m worker.fetching.process SOCKET RING`, the numbers of two
inherited files. Lines of JSON go both ways over the socket; the first one brings the configuration. An event
loop fetches, one thread decodes; the process ends when the socket does, which is when its parent has.

It decodes what strangers send, so it is treated as compromised: it gets no secrets in its environment, its
memory is bounded, and its parent checks everything that it reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import faulthandler
import functools
import importlib
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from imgclust.errors import FetchError, ImageError
from imgclust.fetching.fetcher import Fetcher
from imgclust.fetching.urls import FetchPolicy
from imgclust.support.confined import confine
from imgclust.types import Preprocessing
from worker.fetching.byte_budget import ByteBudget, Item
from worker.fetching.fair_queue import FairQueue, host_of
from worker.fetching.protocol import BODIES, MAX_MESSAGE
from worker.fetching.shared_slots import SharedSlots

# Seconds that an outcome waits for others while more is under way. A message costs its parent about 30 µs,
# whatever is in it; a decoder of 2 ms an image makes two or three outcomes in this time, and a batch for the
# encoder may wait four times as long.
COALESCE = 0.005
HEARTBEAT = 0.5  # seconds
MAX_LINE = 16 * 1024 * 1024  # of the parent, which is trusted: a window of jobs with URLs of 8,192 characters
SMALL_STACK = 1024 * 1024  # bytes; the usual 8 MiB of each thread would count against the memory limit


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """The first line that a fetcher receives.

    Attributes:
        index: of this fetcher; its row in the ring.
        free: slots that it may fill.
        decode: dotted name (`module:function`) of `imgclust.images.decode.decode` or what stands for it in a
            test.
        memory_limit: bytes of private memory (RLIMIT_DATA).
        orphan_timeout: seconds without a turn of the event loop after which the process ends by itself.
    """

    index: int
    processes: int
    slots: int
    free: list[int]
    connections: int
    max_pixels: int
    memory_limit: int
    orphan_timeout: float
    decode: str
    preprocessing: dict[str, Any]
    policy: dict[str, Any]


class FetcherProcess:
    """The life of one fetcher: `run` returns when the parent closes the socket."""

    def __init__(
        self, config: Config, ring: SharedSlots, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._config = config
        self._ring = ring
        self._reader, self._writer = reader, writer
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_die)
        policy = FetchPolicy.from_json(config.policy)
        self._fetcher = Fetcher(policy, connections=config.connections)
        self._decode = decoder(config, policy)
        self._queue: FairQueue[Item] = FairQueue(policy.host_share(config.connections))
        self._budget = ByteBudget(max(BODIES, policy.max_bytes))
        self._items: dict[int, Item] = {}  # all that the parent waits for
        self._active = 0
        self._free = deque(config.free)
        self._fetched: deque[Item] = deque()  # bytes without a slot yet
        self._to_decode: queue.SimpleQueue[tuple[Item, int]] = queue.SimpleQueue()
        self._decoded: list[Any] = []
        self._failed: list[Any] = []
        self._flushing = False

    async def run(self) -> None:
        threading.Thread(target=self._decode_loop, name="decode", daemon=True).start()
        threading.stack_size(SMALL_STACK)  # for the resolver's threads, which come later
        async with self._fetcher:
            self._beat()
            self._write({"ready": os.getpid()})
            while line := await self._reader.readline():
                self._receive(orjson.loads(line))

    def _beat(self) -> None:
        self._ring.beat(self._config.index)
        # a thread in C: it ends this process even while a codec holds the GIL and the parent is gone
        faulthandler.dump_traceback_later(self._config.orphan_timeout, exit=True)
        self._loop.call_later(HEARTBEAT, self._beat)

    def _receive(self, message: dict[str, Any]) -> None:
        self._free.extend(message["release"])
        for token, url in message["jobs"]:
            item = self._items[token] = Item(token, url, host_of(url))
            self._queue.put(item.host, item)
        for token in message["forget"]:
            self._forget(token)
        self._fill_slots()
        self._start_more()

    def _forget(self, token: int) -> None:
        """What is not fetched yet never will be; it ends as a failure, which the parent does not pass on."""
        item = self._items.get(token)
        if item is not None:
            item.forgotten = True
            if item.task is not None:
                item.task.cancel()

    # ── fetch ────────────────────────────────────────────────────────────────────────────────────────────

    def _start_more(self) -> None:
        """A job counts as active until its picture is decoded, which bounds what is held."""
        while self._active < self._config.connections and (next_one := self._queue.take()) is not None:
            item = next_one[1]
            self._active += 1
            item.task = self._loop.create_task(self._fetch(item))

    async def _fetch(self, item: Item) -> None:
        started = time.monotonic()
        try:
            if item.forgotten:
                raise asyncio.CancelledError
            fetched = await self._fetcher.fetch(
                item.url, reserve=functools.partial(self._budget.reserve, item)
            )
        except FetchError as error:
            self._end_failed(item, error, "fetch")
        except asyncio.CancelledError:
            self._end_failed(item, FetchError("superseded while it was fetched"), "fetch")
        except Exception as error:  # a mistake of ours; the task would keep it to itself
            self._loop.call_exception_handler({"message": "a fetch broke", "exception": error})
        else:
            item.data = fetched.data
            item.fetch_seconds = time.monotonic() - started
            self._queue.done(item.host)
            self._fetched.append(item)
            self._fill_slots()
            return
        self._queue.done(item.host)
        self._start_more()

    # ── decode ───────────────────────────────────────────────────────────────────────────────────────────

    def _fill_slots(self) -> None:
        while self._fetched and self._free:
            self._to_decode.put((self._fetched.popleft(), self._free.popleft()))

    def _decode_loop(self) -> None:
        """The decode thread. What it works on stands in the ring, should it be its last."""
        index, ring = self._config.index, self._ring
        while True:
            item, slot = self._to_decode.get()
            ring.mark(index, item.token)
            started = time.monotonic()
            outcome: Any
            try:
                picture = self._decode(item.data)
                ring.pixels(slot)[...] = picture.pixels
                outcome = (picture.width, picture.height)
            except ImageError as error:
                outcome = error
            except BaseException as error:  # a codec's panic need not be an Exception
                outcome = ImageError(f"the decoder failed: {type(error).__name__}: {str(error)[:200]!a}")
                outcome.code = "decode-failed"
            ring.mark(index, 0)
            seconds = time.monotonic() - started
            self._loop.call_soon_threadsafe(self._end_decoded, item, slot, outcome, seconds)

    def _end_decoded(self, item: Item, slot: int, outcome: Any, seconds: float) -> None:
        size = len(item.data)
        if isinstance(outcome, ImageError):
            self._free.append(slot)
            self._end_failed(item, outcome, "decode")
        else:
            self._decoded.append(
                (item.token, slot, *outcome, size, round(item.fetch_seconds, 6), round(seconds, 6))
            )
            self._end(item)
        self._fill_slots()
        self._start_more()

    # ── outcomes ─────────────────────────────────────────────────────────────────────────────────────────

    def _end_failed(self, item: Item, error: ImageError, stage: str) -> None:
        wait = getattr(error, "retry_after", None)
        message = str(error)[:MAX_MESSAGE].encode(errors="backslashreplace").decode()
        self._failed.append((item.token, error.code, stage, message, error.transient, wait))
        self._end(item)

    def _end(self, item: Item) -> None:
        del self._items[item.token]
        self._active -= 1
        item.data = b""
        self._budget.release(item)
        if not self._items:
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_later(COALESCE, self._flush_late)

    def _flush_late(self) -> None:
        self._flushing = False
        if self._decoded or self._failed:
            self._flush()

    def _flush(self) -> None:
        self._write({"decoded": self._decoded, "failed": self._failed})
        self._decoded, self._failed = [], []

    def _write(self, message: dict[str, Any]) -> None:
        self._writer.write(orjson.dumps(message) + b"\n")


def _die(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A mistake of ours would lose a job silently; a dead process has its jobs tried again."""
    loop.default_exception_handler(context)
    os._exit(70)


def decoder(config: Config, policy: FetchPolicy) -> Callable[[bytes], Any]:
    """Bytes → a picture, as `config.decode` says."""
    from imgclust.images.decode import Limits

    module, _, function = config.decode.partition(":")
    decode = getattr(importlib.import_module(module), function)
    raw: dict[str, Any] = dict(config.preprocessing)
    raw["mean"], raw["std"] = tuple(raw["mean"]), tuple(raw["std"])
    preprocessing = Preprocessing(**raw)
    limits = Limits(max_pixels=config.max_pixels, max_bytes=policy.max_bytes)

    def run(data: bytes) -> Any:
        return decode(data, preprocessing, limits)

    return run


async def serve(channel: socket.socket, ring_file: int) -> None:
    reader, writer = await asyncio.open_connection(sock=channel, limit=MAX_LINE)
    first = await reader.readline()
    if not first:
        return  # the parent has gone, or changed its mind
    config = Config(**orjson.loads(first))
    ring = SharedSlots(ring_file, config.slots, config.preprocessing["size"], config.processes)
    confine(config.memory_limit)
    await FetcherProcess(config, ring, reader, writer).run()


def main() -> None:
    # the parent decides when this ends; a Ctrl-C on the terminal reaches every process of it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    channel = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.suppress(ConnectionError):
        asyncio.run(serve(channel, int(sys.argv[2])))
    os._exit(0)  # without waiting for a decoder that may never return


if __name__ == "__main__":
    main()
