"""Redis → tags, for readers: a feed of some clusters, newest first, and the tags of given uploads.

Needs nothing but `redis` and reading rights. `docs/redis.md` has the same reads as plain Redis commands.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from functools import partial
from typing import Any, TypeVar

from worker.messages.tag import Tag
from worker.reader import reads
from worker.reader.cursor import Selection
from worker.reader.merge import Command
from worker.reader.values import Cluster, Latest, Page
from worker.view.client import AsyncClient, Client, connect, connect_async
from worker.view.cluster import run_pipeline, run_pipeline_async
from worker.view.keys import Keys

T = TypeVar("T")


class Feed:
    """Reads what the view keeps in Redis. Thread-safe as far as the client is (redis.Redis is).

    Args:
        client: with or without `decode_responses`; a replica will do.
        prefix: the worker's WORKER_REDIS_PREFIX.
    """

    def __init__(self, client: Client, prefix: str = "imgclust:") -> None:
        self._redis: Any = client
        self._keys = Keys(prefix)

    @classmethod
    def from_url(cls, url: str, prefix: str = "imgclust:", *, timeout: float = 2.0) -> Feed:
        """A feed with a client of its own.

        Args:
            url: `redis://…`, `redis+cluster://…` or `redis+sentinel://…`, as WORKER_REDIS_URL.
            timeout: seconds, for connecting and for each reply.
        """
        return cls(connect(url, timeout=timeout), prefix)

    def taxonomy(self) -> str | None:
        """The taxonomy that feeds read, None before the first tag."""
        return self._run(reads.taxonomy(self._keys))

    def get(self, ids: Iterable[str]) -> dict[str, Tag]:
        """Tags by id; ids that are not (or no longer) tagged are missing. One round trip per 500 ids."""
        return self._run(reads.get(self._keys, ids))

    def latest(
        self,
        cluster: int | Iterable[int] | None = None,
        limit: int = 50,
        cursor: str | None = None,
        taxonomy: str | None = None,
        *,
        without: Iterable[int] = (),
        seen: Container[str] = (),
        until: str | None = None,
    ) -> Page:
        """The newest tags of one cluster or several, by `uploaded_at`.

        Every upload that is in one of the clusters from the first page to the last, and is not in `seen`, is
        on exactly one of them.

        Args:
            cluster: a number, some numbers, or None for all; -1 is "other".
            limit: of tags, 1 to 1000.
            cursor: of the page before.
            taxonomy: by default the one that feeds read, or the cursor's.
            without: clusters to leave out.
            seen: ids to leave out, like those that the user has been shown; anything that knows `in`.
            until: the `newest` of a page that was read before: only what is newer.

        Returns:
            At most `limit` tags; fewer only at the end. Three round trips for most pages.

        Raises:
            ValueError: the limit is out of range, or a cursor is not one of these clusters.
        """
        selection = Selection.of(cluster, without)
        return self._run(reads.latest(self._keys, selection, limit, cursor, until, taxonomy, seen))

    def clusters(self, taxonomy: str | None = None) -> dict[int, Cluster]:
        """The clusters that were tagged so far, by number; -1 ("other") is one of them once it was used."""
        return self._run(reads.clusters(self._keys, taxonomy))

    def groups(self, taxonomy: str | None = None) -> dict[int, tuple[int, ...]]:
        """The groups of a model of two levels, and their clusters: `latest(feed.groups()[2])` reads one."""
        return self._run(reads.groups(self._keys, taxonomy))

    def overview(self, limit: int = 12, since: int = 0, taxonomy: str | None = None) -> dict[int, Latest]:
        """All clusters at a glance, in four round trips however many there are.

        Args:
            limit: newest tags of each cluster, 1 to 1000; a few less where some just left the cluster.
            since: milliseconds since the epoch, what `recent` counts from.
            taxonomy: by default the one that feeds read.

        Raises:
            ValueError: the limit is out of range.
        """
        return self._run(reads.overview(self._keys, limit, since, taxonomy))

    def _run(self, read: reads.Read[T]) -> T:
        try:
            commands = next(read)
            while True:
                commands = read.send(run_pipeline(self._redis, partial(_queue, commands)))
        except StopIteration as end:
            result: T = end.value
            return result


class AsyncFeed:
    """`Feed` for asyncio: the same reads, arguments, results and errors, each to be awaited.

    Args:
        client: a `redis.asyncio` client, with or without `decode_responses`; a replica will do.
        prefix: the worker's WORKER_REDIS_PREFIX.
    """

    def __init__(self, client: AsyncClient, prefix: str = "imgclust:") -> None:
        self._redis: Any = client
        self._keys = Keys(prefix)

    @classmethod
    def from_url(cls, url: str, prefix: str = "imgclust:", *, timeout: float = 2.0) -> AsyncFeed:
        """See `Feed.from_url`."""
        return cls(connect_async(url, timeout=timeout), prefix)

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._redis.aclose()

    async def taxonomy(self) -> str | None:
        """See `Feed.taxonomy`."""
        return await self._run(reads.taxonomy(self._keys))

    async def get(self, ids: Iterable[str]) -> dict[str, Tag]:
        """See `Feed.get`."""
        return await self._run(reads.get(self._keys, ids))

    async def latest(
        self,
        cluster: int | Iterable[int] | None = None,
        limit: int = 50,
        cursor: str | None = None,
        taxonomy: str | None = None,
        *,
        without: Iterable[int] = (),
        seen: Container[str] = (),
        until: str | None = None,
    ) -> Page:
        """See `Feed.latest`."""
        selection = Selection.of(cluster, without)
        return await self._run(reads.latest(self._keys, selection, limit, cursor, until, taxonomy, seen))

    async def clusters(self, taxonomy: str | None = None) -> dict[int, Cluster]:
        """See `Feed.clusters`."""
        return await self._run(reads.clusters(self._keys, taxonomy))

    async def groups(self, taxonomy: str | None = None) -> dict[int, tuple[int, ...]]:
        """See `Feed.groups`."""
        return await self._run(reads.groups(self._keys, taxonomy))

    async def overview(
        self, limit: int = 12, since: int = 0, taxonomy: str | None = None
    ) -> dict[int, Latest]:
        """See `Feed.overview`."""
        return await self._run(reads.overview(self._keys, limit, since, taxonomy))

    async def _run(self, read: reads.Read[T]) -> T:
        try:
            commands = next(read)
            while True:
                commands = read.send(await run_pipeline_async(self._redis, partial(_queue, commands)))
        except StopIteration as end:
            result: T = end.value
            return result


def _queue(commands: Iterable[Command], pipe: Any) -> None:
    for method, arguments, options in commands:
        getattr(pipe, method)(*arguments, **options)
