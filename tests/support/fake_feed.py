"""Stands where `Feed` and `AsyncFeed` stand, over tags in memory. Proven by tests/contracts/test_feed.py."""

from __future__ import annotations

from collections.abc import Iterable

import redis

from worker.feed import AsyncFeed, Feed
from worker.messages.tag import Tag
from worker.reader.values import Cluster, Latest, Page


class FakeFeed(Feed):
    """A view that has some tags.

    Args:
        listed: ids in the clusters' lists, when they are not all; they must have tags to be found.

    Attributes:
        away: Redis does not answer.
    """

    def __init__(self, *tags: Tag, listed: Iterable[str] | None = None) -> None:
        self.tags = {tag.id: tag for tag in tags}
        self.listed = None if listed is None else set(listed)
        self.away = False

    def taxonomy(self) -> str | None:
        if self.away:
            raise redis.ConnectionError("away")
        return next((tag.taxonomy for tag in self.tags.values()), None)

    def get(self, ids: Iterable[str]) -> dict[str, Tag]:
        self.taxonomy()
        return {i: self.tags[i] for i in ids if i in self.tags}

    def clusters(self, taxonomy: str | None = None) -> dict[int, Cluster]:
        self.taxonomy()
        found = {tag.cluster: Cluster(tag.cluster, tag.name, tag.model) for tag in self.tags.values()}
        return dict(sorted(found.items()))

    def _newest(self, cluster: int) -> list[Tag]:
        """As Redis orders them: by time, then by the id's bytes, backwards."""
        found = [tag for tag in self.tags.values() if tag.cluster == cluster]
        if self.listed is not None:
            found = [tag for tag in found if tag.id in self.listed]
        return sorted(found, key=lambda tag: (tag.uploaded_at, tag.id.encode()), reverse=True)

    def latest(  # type: ignore[override]
        self, cluster: int, limit: int = 50, cursor: str | None = None, taxonomy: str | None = None
    ) -> Page:
        self.taxonomy()
        if cursor is not None and not cursor.isdecimal():
            raise ValueError(f"not a cursor: {cursor!r}")
        found, start = self._newest(cluster), int(cursor or 0)
        end = start + limit
        return Page(tuple(found[start:end]), str(end) if end < len(found) else None)

    def overview(self, limit: int = 12, since: int = 0, taxonomy: str | None = None) -> dict[int, Latest]:
        found = {}
        for number, cluster in self.clusters().items():
            newest = self._newest(number)
            recent = sum(tag.uploaded_at >= since for tag in newest)
            found[number] = Latest(cluster, len(newest), recent, tuple(newest[:limit]))
        return found


class FakeAsyncFeed(AsyncFeed):
    """The same for coroutines."""

    def __init__(self, *tags: Tag) -> None:
        self.known = FakeFeed(*tags)

    async def taxonomy(self) -> str | None:
        return self.known.taxonomy()

    async def get(self, ids: Iterable[str]) -> dict[str, Tag]:
        return self.known.get(ids)

    async def clusters(self, taxonomy: str | None = None) -> dict[int, Cluster]:
        return self.known.clusters(taxonomy)

    async def latest(  # type: ignore[override]
        self, cluster: int, limit: int = 50, cursor: str | None = None, taxonomy: str | None = None
    ) -> Page:
        return self.known.latest(cluster, limit, cursor, taxonomy)

    async def overview(
        self, limit: int = 12, since: int = 0, taxonomy: str | None = None
    ) -> dict[int, Latest]:
        return self.known.overview(limit, since, taxonomy)
