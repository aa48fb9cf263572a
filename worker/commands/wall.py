"""`imgclust-worker wall`: serve the wall until a signal."""

from __future__ import annotations

import asyncio
import signal

from imgclust.fetching.urls import FetchPolicy
from worker.feed import AsyncFeed
from worker.settings.settings import Settings
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.telemetry.otlp import exporting
from worker.view.client import connect_async
from worker.wall.app import REDIS_SECONDS, Wall

log = logs.get(__name__)


def wall(settings: Settings) -> int:
    """Serve the page until a signal.

    Raises:
        StartError: the address cannot be listened on.
    """
    policy = FetchPolicy(
        allow_networks=settings.fetch_allow_networks,
        allow_hosts=settings.fetch_allow_hosts,
        deny_hosts=settings.fetch_deny_hosts,
        allow_ports=settings.fetch_allow_ports,
    )
    asyncio.run(_serve(settings, policy))
    return 0


async def _serve(settings: Settings, policy: FetchPolicy) -> None:
    client = connect_async(settings.redis_url, settings.redis_password, timeout=REDIS_SECONDS)
    feed = AsyncFeed(client, settings.redis_prefix)
    host, port = settings.wall
    metrics = Metrics()
    page = Wall(feed, settings.wall_images, policy, loopback=host, metrics=metrics)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with exporting(metrics.registry):
        async with page.listening(host, port) as address:
            log.info("the wall", address=f"http://{address}/")
            await stop.wait()
    await feed.aclose()
