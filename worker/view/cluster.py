"""A Redis Cluster as the worker needs it: reached when first used, failing in bounded time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import RedisClusterException

_NO_ANSWER = (redis.ConnectionError, redis.TimeoutError)


class Cluster(redis.RedisCluster):
    """A client of a Redis Cluster that connects when it is first used, as redis.Redis does.

    What goes wrong is always a `redis.RedisError`: the library's RedisClusterException is none.
    """

    def __init__(self, **options: Any) -> None:
        self.__dict__["_waiting"] = options

    def __getattr__(self, name: str) -> Any:
        """An attribute that is not there yet: time to connect."""
        if "_waiting" not in self.__dict__:
            raise AttributeError(name)
        options = self.__dict__.pop("_waiting")
        try:
            super().__init__(**options)
        except RedisClusterException as error:
            self.__dict__.clear()
            self.__dict__["_waiting"] = options
            raise redis.ConnectionError(str(error)) from error
        except BaseException:
            self.__dict__.clear()
            self.__dict__["_waiting"] = options
            raise
        return getattr(self, name)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error

    def close(self) -> None:
        if "_waiting" not in self.__dict__:
            super().close()


class AsyncCluster(redis.asyncio.RedisCluster):
    """The same for asyncio; this one connects late by itself."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)
        except RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error


def run_pipeline(client: Any, build: Callable[[Any], None], *, raise_on_error: bool = True) -> list[Any]:
    """The replies to the commands that `build` queues.

    Raises:
        redis.RedisError: nothing was answered; with `raise_on_error` also the first error that was.
    """
    pipe = client.pipeline(transaction=False)
    build(pipe)
    if isinstance(client, redis.RedisCluster):
        _retry_once(pipe)
    try:
        replies: list[Any] = pipe.execute(raise_on_error=raise_on_error)
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error
    return replies


async def run_pipeline_async(client: Any, build: Callable[[Any], None]) -> list[Any]:
    """`run_pipeline` for asyncio."""
    try:
        async with client.pipeline(transaction=False) as pipe:
            build(pipe)
            replies: list[Any] = await pipe.execute()
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error
    return replies


def _retry_once(pipe: Any) -> None:
    """Commands that failed are tried again one by one, which is right for a key that has moved to another
    node. Of a node that does not answer, each of five hundred would wait for the timeout: once is enough."""
    single = pipe.parent_execute_command
    silence: list[redis.RedisError] = []

    def execute(*args: Any, **options: Any) -> Any:
        if silence:
            raise silence[0]
        try:
            return single(*args, **options)
        except _NO_ANSWER as error:
            silence.append(error)
            raise

    pipe.parent_execute_command = execute
