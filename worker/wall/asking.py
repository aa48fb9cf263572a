"""Questions to Redis on behalf of a client of HTTP."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import redis
from aiohttp import web

from worker.http.answers import refused
from worker.telemetry import log as logs

log = logs.get(__name__)

T = TypeVar("T")


async def ask(answer: Awaitable[T]) -> T:
    """What Redis answers.

    Raises:
        HTTPServiceUnavailable: it does not.
    """
    try:
        return await answer
    except redis.RedisError as error:
        log.debug("Redis cannot be read", error=str(error))
        raise refused(web.HTTPServiceUnavailable, "Redis does not answer", retry=1) from None
