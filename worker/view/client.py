"""How the worker talks to Redis: clients that fail at once, errors by kind, small parsing."""

from __future__ import annotations

import re
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.errors import WorkerError
from worker.messages.text import printable
from worker.settings.redis_address import RedisAddress
from worker.view.cluster import AsyncCluster, Cluster

_redis: Any = redis  # parts of it have no types

Client = redis.Redis | redis.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster


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
    if isinstance(error, redis.ConnectionError | redis.exceptions.ClusterError):
        return RedisTrouble("away", text)  # or the Cluster has nobody for some of the slots
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM command" in text:
        return RedisTrouble("full", f"{text} (raise maxmemory; the view waits and nothing is lost)")
    return RedisTrouble("other", text)


def connect(url: str, password: str | None = None, timeout: float = 5.0) -> Client:
    """A client that reports every failure at once: waiting and trying again is the view's own work.

    Args:
        url: see `RedisAddress.parse`: one server, a Redis Cluster, or Sentinels.
        timeout: seconds that one read or write may take; a frozen Redis is noticed after so long.
    """
    address = RedisAddress.parse(url)
    options = _options(address, password, timeout) | {"client_name": "imgclust-view"}
    fail_at_once = Retry(NoBackoff(), 0)
    if address.kind == "cluster":
        nodes = [_redis.cluster.ClusterNode(host, port) for host, port in address.nodes]
        return Cluster(startup_nodes=nodes, retry=fail_at_once, dynamic_startup_nodes=False, **options)
    if address.kind == "sentinel":
        sentinels = _redis.Sentinel(address.nodes, sentinel_kwargs=_sentinel_options(address, timeout))
        client: redis.Redis = sentinels.master_for(
            address.service, db=address.db, retry=fail_at_once, **options
        )
        return client
    return redis.Redis.from_url(url, retry=fail_at_once, **options)


def connect_async(url: str, password: str | None = None, timeout: float = 2.0) -> AsyncClient:
    """The same for asyncio. It opens at most eight connections to a server; who needs a ninth waits.

    Args:
        timeout: seconds that one read, write or wait may take.
    """
    address = RedisAddress.parse(url)
    options = _options(address, password, timeout) | {"client_name": "imgclust-feed"}
    fail_at_once = redis.asyncio.retry.Retry(NoBackoff(), 0)
    if address.kind == "cluster":
        nodes = [AsyncClusterNode(host, port) for host, port in address.nodes]
        return AsyncCluster(startup_nodes=nodes, retry=fail_at_once, dynamic_startup_nodes=False, **options)
    if address.kind == "sentinel":
        sentinels = _redis.asyncio.Sentinel(
            address.nodes, sentinel_kwargs=_sentinel_options(address, timeout)
        )
        client: redis.asyncio.Redis = sentinels.master_for(
            address.service, db=address.db, retry=fail_at_once, max_connections=8, **options
        )
        return client
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, max_connections=8, timeout=timeout, retry=fail_at_once, **options
    )
    return redis.asyncio.Redis.from_pool(pool)


def _options(address: RedisAddress, password: str | None, timeout: float) -> dict[str, Any]:
    secret = address.password if password is None else password
    named = {"username": address.username, "password": secret}
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, 3.0),
        "socket_keepalive": True,
        "protocol": 2,
        **{name: value for name, value in named.items() if value is not None},
        **dict(address.tls),
    }


def _sentinel_options(address: RedisAddress, timeout: float) -> dict[str, Any]:
    """Sentinels are asked one after the other: one that is frozen must not take all of the time."""
    secret = {} if address.sentinel_password is None else {"password": address.sentinel_password}
    return {"socket_timeout": min(timeout, 1.0), "protocol": 2, **secret, **dict(address.tls)}


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
