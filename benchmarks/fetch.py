"""What safety and processes cost: the fetcher beside plain aiohttp, and the pool of fetcher processes.

    python -m benchmarks.fetch                          both, five runs of each side in turns
    python -m benchmarks.fetch --only fetcher           images/s of our fetcher and of plain aiohttp
    python -m benchmarks.fetch --only pool              images/s from URL to pixels, CPU of all sides

One event loop, 64 connections, JPEGs of about 16 KB from a server in another process on loopback. "Plain" is
what one would write without a thought of strangers: `session.get(url)`, `await response.read()`.

Prints a JSON line for each figure (of several runs the median), then a table.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import ipaddress
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from PIL import Image

from benchmarks.common import Figure, machine, process_seconds, summed_up, table, thread_names, thread_seconds
from benchmarks.image_server import serving
from imgclust.fetching.fetcher import Fetcher
from imgclust.fetching.urls import FetchPolicy
from imgclust.types import Preprocessing
from worker.fetching.pool import FetcherPool
from worker.fetching.protocol import Decoded, FetchOutcome, Job

CONNECTIONS = 64
BYTES = 16 * 1024
BATCH = 64
PREPROCESSING = Preprocessing(size=224, resize=224)


def jpeg(seed: int, nbytes: int = BYTES) -> bytes:
    """A JPEG of about `nbytes`: smooth noise, at the quality that comes nearest."""
    coarse = np.random.default_rng(seed).integers(0, 255, (27, 40, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((320, 214), Image.Resampling.BICUBIC)
    best = b""
    for quality in range(40, 100, 3):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        if abs(out.tell() - nbytes) < abs(len(best) - nbytes):
            best = out.getvalue()
    return best


def policy(urls: Sequence[str]) -> FetchPolicy:
    port = urlsplit(urls[0]).port
    assert port is not None
    return FetchPolicy(
        allow_networks=(ipaddress.ip_network("127.0.0.0/8"),), allow_ports=(port,), per_host=CONNECTIONS
    )


# ── one event loop ───────────────────────────────────────────────────────────────────────────────────────


Cost = tuple[float, float]  # images/s, ms of a core per image


async def all_of(urls: Sequence[str], count: int, fetch: Callable[[str], Awaitable[object]]) -> Cost:
    """Fetch `count` images with `CONNECTIONS` at once."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await fetch(urls[number % len(urls)])

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return count / (time.perf_counter() - started), 1000 * (time.process_time() - cpu) / count


async def with_plain(urls: Sequence[str], count: int) -> Cost:
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def fetch(url: str) -> bytes:
            async with session.get(url) as response:
                return await response.read()

        await all_of(urls, CONNECTIONS * 4, fetch)
        return await all_of(urls, count, fetch)


async def with_fetcher(urls: Sequence[str], count: int) -> Cost:
    async with Fetcher(policy(urls), connections=CONNECTIONS) as fetcher:
        await all_of(urls, CONNECTIONS * 4, fetcher.fetch)
        return await all_of(urls, count, fetcher.fetch)


def fetcher(urls: Sequence[str], count: int, runs: int) -> Iterator[Figure]:
    ours, plain = [], []
    for _ in range(runs):
        plain.append(asyncio.run(with_plain(urls, count)))
        ours.append(asyncio.run(with_fetcher(urls, count)))
    name = "fetcher beside plain aiohttp"
    yield summed_up("fetch", name, "images/s", [o[0] for o in ours], [p[0] for p in plain])
    yield summed_up("fetch", name, "CPU ms/image", [o[1] for o in ours], [p[1] for p in plain])


# ── the pool ─────────────────────────────────────────────────────────────────────────────────────────────


class Sink:
    """Gives slots back a batch at a time, as an encoder that takes no time would."""

    def __init__(self) -> None:
        self.pool: FetcherPool
        self.done = 0
        self.failed = 0
        self._slots: list[int] = []
        self._all = threading.Event()
        self._wanted = 0

    def __call__(self, outcomes: list[FetchOutcome]) -> None:
        slots = [outcome.slot for outcome in outcomes if isinstance(outcome, Decoded)]
        self._slots += slots
        if len(self._slots) >= BATCH:
            self.pool.release(self._slots)
            self._slots = []
        self.done += len(outcomes)
        self.failed += len(outcomes) - len(slots)
        if self.done >= self._wanted:
            self._all.set()

    def run(self, urls: Sequence[str], count: int) -> float:
        """Seconds for `count` images."""
        self._all.clear()
        first, self._wanted = self.done + 1, self.done + count
        started = time.perf_counter()
        self.pool.submit([Job(first + i, urls[i % len(urls)]) for i in range(count)])
        if not self._all.wait(300):
            raise SystemExit(f"only {self.done - first + 1} of {count} images in 300 s")
        return time.perf_counter() - started


def one_pool_run(urls: Sequence[str], count: int, processes: int) -> tuple[float, float, float]:
    """images/s, and ms of a core per image of the pool's thread and of the fetchers."""
    sink = Sink()
    sink.pool = FetcherPool(
        processes=processes,
        slots=256,
        preprocessing=PREPROCESSING,
        policy=policy(urls),
        on_outcomes=sink,
        connections=CONNECTIONS,
    )
    sink.pool.start()
    try:
        sink.run(urls, 200 * processes)
        before = parent_seconds(), fetcher_seconds(sink.pool)
        seconds = sink.run(urls, count)
        parent, fetchers = parent_seconds() - before[0], fetcher_seconds(sink.pool) - before[1]
    finally:
        sink.pool.stop(5)
    if sink.failed:
        raise SystemExit(f"{sink.failed} images failed")
    return count / seconds, 1000 * parent / count, 1000 * fetchers / count


def parent_seconds() -> float:
    """Of the pool's own thread."""
    names = thread_names()
    return sum(seconds for task, seconds in thread_seconds().items() if names.get(task) == "fetchers")


def fetcher_seconds(pool: FetcherPool) -> float:
    return sum(process_seconds(pid) for pid in pool.pids)


def pool(urls: Sequence[str], count: int, runs: int, processes: int) -> Iterator[Figure]:
    results = [one_pool_run(urls, count, processes) for _ in range(runs)]
    name = f"fetch and decode, {processes} fetchers"
    yield summed_up(name, "throughput", "images/s", [r[0] for r in results])
    yield summed_up(name, "CPU, parent", "ms/image", [r[1] for r in results])
    yield summed_up(name, "CPU, fetchers", "ms/image", [r[2] for r in results])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("fetcher", "pool"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--fetchers", type=int, default=2)
    arguments = parser.parse_args()
    pictures = [jpeg(seed) for seed in range(16)]
    print(json.dumps({**machine(), "bytes": round(float(np.mean([len(p) for p in pictures])))}))
    lines = []
    with serving(pictures) as urls:
        figures: list[Figure] = []
        if arguments.only != "pool":
            figures += fetcher(urls, arguments.images, arguments.runs)
        if arguments.only != "fetcher":
            figures += pool(urls, arguments.images, arguments.runs, arguments.fetchers)
    for figure in figures:
        print(figure.line(), flush=True)
        lines.append(json.loads(figure.line()))
    print(table(lines))


if __name__ == "__main__":
    main()
