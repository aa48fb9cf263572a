"""How the worker talks to Redis: a client that fails at once, its errors by kind, scripts, small parsing."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.errors import WorkerError
from worker.messages.text import printable

Client = redis.Redis | redis.RedisCluster


class RedisTrouble(WorkerError):
    """Redis did not take a write. Nothing is wrong with what was written: the same again, later, will do.

    `kind` is one of `worker.telemetry.metrics.REDIS_ERRORS`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def trouble(error: redis.RedisError) -> RedisTrouble:
    """What an error of the client library means here."""
    text = f"Redis: {printable(str(error))}"
    # an error from inside a script carries its code at the start (Redis 7), or somewhere (before)
    if isinstance(error, redis.TimeoutError):
        return RedisTrouble("timeout", text)
    if isinstance(error, redis.exceptions.ReadOnlyError) or "READONLY" in text:
        return RedisTrouble("read-only", text)
    if isinstance(error, redis.ConnectionError):
        return RedisTrouble("away", text)
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM command" in text:
        return RedisTrouble("full", f"{text} (raise maxmemory; the view waits and nothing is lost)")
    return RedisTrouble("other", text)


def connect(url: str, password: str | None = None, timeout: float = 5.0) -> redis.Redis:
    """A client that reports every failure at once: waiting and trying again is the view's own work.

    Args:
        timeout: seconds that one read or write may take; a frozen Redis is noticed after so long.
    """
    return redis.Redis.from_url(
        url, retry=Retry(NoBackoff(), 0), client_name="imgclust-view", **_options(password, timeout)
    )


def connect_async(url: str, password: str | None = None, timeout: float = 2.0) -> redis.asyncio.Redis:
    """A client for asyncio that reports every failure at once; it opens at most eight connections, and who
    asks for a ninth waits for one.

    Args:
        timeout: seconds that one read, write or wait may take.
    """
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=8,
        timeout=timeout,
        retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
        client_name="imgclust-feed",
        **_options(password, timeout),
    )
    return redis.asyncio.Redis.from_pool(pool)


def _options(password: str | None, timeout: float) -> dict[str, Any]:
    named = {} if password is None else {"password": password}
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, 3.0),
        "socket_keepalive": True,
        "protocol": 2,
        **named,
    }


class Script:
    """A Lua script that touches one key."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()  # Redis's name for it

    def queue(self, pipe: Any, key: bytes, *arguments: object) -> None:
        """Add a call to a pipeline (`pipe.evalsha` would refuse on a cluster, where one key is fine)."""
        pipe.execute_command("EVALSHA", self.sha, 1, key, *arguments)


def parse_pair(value: bytes | str | None) -> tuple[int, int] | None:
    """`17:23` → (17, 23), as positions and marks are written; None for anything else."""
    found = re.fullmatch(r"(\d{1,19}):(\d{1,19})", "" if value is None else text_of(value), re.ASCII)
    return None if found is None else (int(found[1]), int(found[2]))


def text_of(value: bytes | str) -> str:
    """What a client gave, with or without `decode_responses`."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def bytes_of(value: bytes | str) -> bytes:
    """What a client gave, with or without `decode_responses`."""
    return value.encode() if isinstance(value, str) else value
