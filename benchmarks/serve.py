"""How long does who asks wait? `imgclust-worker serve` with a real encoder, pictures sent over HTTP.

    python -m benchmarks.serve [--seconds 20] [--load 0.6]

First as many ask as there are seats, each again as soon as it is answered: what the service can take. Then
questions arrive at random moments (Poisson) at 60 % of that, whoever waits: the latency that people see.

The asker shares the cores with the service. Prints a JSON line for each figure, then a table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import aiohttp

from benchmarks.common import Figure, clipart_jpegs, machine, model_folder, table

WARM_UP = 3.0  # seconds that are not counted
START_SECONDS = 180.0


@contextlib.contextmanager
def service() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`imgclust-worker serve`, not ready yet; yields its address and process."""
    from worker.demo.backends import free_ports

    port, metrics = free_ports(2)
    environment = {
        **os.environ,
        "WORKER_MODEL": str(model_folder()),
        "WORKER_SERVE": f"127.0.0.1:{port}",
        "WORKER_HTTP": f"127.0.0.1:{metrics}",
        "WORKER_LOG": "json",
    }
    command = [sys.executable, "-m", "worker", "serve"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        yield url, process
    finally:
        process.terminate()
        process.wait()


async def _ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with aiohttp.ClientSession() as http:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{url}/v2/health/ready") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.2)
    raise SystemExit("the service did not start")


async def ask(http: aiohttp.ClientSession, url: str, picture: bytes) -> float:
    """Seconds until the tag is there."""
    started = time.perf_counter()
    async with http.post(f"{url}/v1/tag", data=picture) as answer:
        await answer.read()
        answer.raise_for_status()
    return time.perf_counter() - started


async def saturated(
    http: aiohttp.ClientSession, url: str, pictures: Sequence[bytes], seconds: float
) -> float:
    """Answers a second when 64 ask at once."""
    begin = time.perf_counter() + WARM_UP
    answers = 0

    async def client(seed: int) -> None:
        nonlocal answers
        chance = random.Random(seed)
        while time.perf_counter() < begin + seconds:
            await ask(http, url, chance.choice(pictures))
            answers += time.perf_counter() >= begin

    await asyncio.gather(*(client(seed) for seed in range(64)))
    return answers / (time.perf_counter() - begin)


async def arriving(
    http: aiohttp.ClientSession, url: str, pictures: Sequence[bytes], rate: float, seconds: float
) -> list[float]:
    """The latencies of questions that arrive at random."""
    chance = random.Random(0)
    asked: list[tuple[float, asyncio.Task[float]]] = []
    begin = at = time.perf_counter()
    while at < begin + WARM_UP + seconds:
        at += chance.expovariate(rate)
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        asked.append((at, asyncio.create_task(ask(http, url, chance.choice(pictures)))))
    return [await task for at, task in asked if at >= begin + WARM_UP]


async def measure(seconds: float, load: float) -> list[Figure]:
    pictures = clipart_jpegs()
    connector = aiohttp.TCPConnector(limit=0)
    with service() as (url, process):
        await _ready(url, process)
        async with aiohttp.ClientSession(connector=connector) as http:
            most = await saturated(http, url, pictures, seconds)
            latencies = await arriving(http, url, pictures, load * most, seconds)
    parts = statistics.quantiles(latencies, n=100)
    name = f"serve, mini, {load:.0%} load"
    return [
        Figure("serve, mini", "answers when 64 ask", "/s", most),
        *(Figure(name, f"latency, {n}th percentile", "ms", parts[n - 1] * 1000) for n in (50, 95, 99)),
        Figure(name, "questions", "", len(latencies)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part (%(default)s)")
    parser.add_argument("--load", type=float, default=0.6, help="share of what it can take (%(default)s)")
    arguments = parser.parse_args()
    print(machine())
    figures = asyncio.run(measure(arguments.seconds, arguments.load))
    for figure in figures:
        print(figure.line())
    print(table([json.loads(figure.line()) for figure in figures]))


if __name__ == "__main__":
    main()
