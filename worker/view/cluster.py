"""A Redis Cluster as the worker needs it: reached when first used, failing in bounded time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import RedisClusterException

NO_ANSWER = (redis.ConnectionError, redis.TimeoutError)


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
        with self.watched():
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Where a node does not answer, ask the others who has its slots now: the library leaves that out
        for some commands, and would ask a dead node for ever."""
        try:
            yield
        except RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error
        except NO_ANSWER:
            self.refresh()
            raise

    def refresh(self) -> None:
        with contextlib.suppress(redis.RedisError, RedisClusterException):
            self.nodes_manager.initialize()

    def close(self) -> None:
        if "_waiting" not in self.__dict__:
            super().close()


class AsyncCluster(redis.asyncio.RedisCluster):
    """The same for asyncio; this one connects late by itself."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with self.watched():
            return await super().execute_command(*args, **options)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """See `Cluster.watched`."""
        try:
            yield
        except RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error
        except NO_ANSWER:
            with contextlib.suppress(redis.RedisError, RedisClusterException):
                await self.nodes_manager.initialize()
            raise


def run_pipeline(client: Any, build: Callable[[Any], None], *, raise_on_error: bool = True) -> list[Any]:
    """The replies to the commands that `build` queues.

    Raises:
        redis.RedisError: nothing was answered; with `raise_on_error` also the first error that was.
    """
    if not isinstance(client, Cluster):
        pipe = client.pipeline(transaction=False)
        build(pipe)
        replies: list[Any] = pipe.execute(raise_on_error=raise_on_error)
        return replies
    with client.watched():
        pipe = client.pipeline(transaction=False)  # type: ignore[no-untyped-call]
        build(pipe)
        _retry_once(pipe)
        replies = pipe.execute(raise_on_error=raise_on_error)
    if any(isinstance(reply, NO_ANSWER) for reply in replies):
        client.refresh()
    return replies


async def run_pipeline_async(client: Any, build: Callable[[Any], None]) -> list[Any]:
    """`run_pipeline` for asyncio."""
    watched = client.watched() if isinstance(client, AsyncCluster) else contextlib.nullcontext()
    async with watched, client.pipeline(transaction=False) as pipe:
        build(pipe)
        replies: list[Any] = await pipe.execute()
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
        except NO_ANSWER as error:
            silence.append(error)
            raise

    pipe.parent_execute_command = execute
