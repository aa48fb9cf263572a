"""Redis → tags, for readers: a feed of a cluster, newest first, and the tags of given uploads.

Needs nothing but `redis` and reading rights. `docs/redis.md` has the same reads as plain Redis commands.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import orjson
import redis

from worker.messages.tag import TAXONOMY, Tag
from worker.messages.text import printable
from worker.messages.upload import MAX_ID_CHARS
from worker.view.client import Client
from worker.view.keys import Keys

MAX_LIMIT = 1000
MAX_CURSOR_CHARS = 4096
_CHUNK = 500  # commands per round trip
_SPARE = 8  # members asked for beyond those wanted: some are in a set by mistake, or of a score that was seen


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Some tags of a cluster, newest first; `cursor` asks for those that follow, None when there are none."""

    tags: tuple[Tag, ...]
    cursor: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """What a cluster is called, and by which model."""

    id: int
    name: str | None
    model: str


@dataclasses.dataclass(frozen=True, slots=True)
class Latest:
    """What a cluster holds now.

    Attributes:
        count: uploads in it; the view keeps the newest 10,000.
        recent: of these, uploaded since the moment that was asked for.
        tags: the newest, newest first.
    """

    cluster: Cluster
    count: int
    recent: int
    tags: tuple[Tag, ...]


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class _Place:
    """Where an id stands in a sorted set, as Redis orders them: by score, then by the id's bytes."""

    score: int
    member: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class _Cursor:
    taxonomy: str
    cluster: int
    place: _Place

    def encode(self) -> str:
        fields = [1, self.taxonomy, self.cluster, self.place.score, self.place.member.decode()]
        return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> _Cursor:
        """Raises ValueError for everything that `encode` did not make."""
        try:
            if not isinstance(text, str) or len(text) > MAX_CURSOR_CHARS:
                raise ValueError("too long")
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            version, taxonomy, cluster, score, member = orjson.loads(raw)
            kinds = [type(field) for field in (version, taxonomy, cluster, score, member)]
            if version != 1 or kinds != [int, str, int, int, str] or not TAXONOMY.fullmatch(taxonomy):
                raise ValueError("not a cursor of this version")
            if len(member) > MAX_ID_CHARS:
                raise ValueError("no such id")
        except (ValueError, TypeError, binascii.Error) as error:
            raise ValueError(
                f"not a cursor: {printable(text)} ({error}); use the one that the last page came with, "
                "or none for the first page"
            ) from None
        return cls(taxonomy, cluster, _Place(score, member.encode()))


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
        """A feed with a client of its own; `timeout` is in seconds, for connecting and for each reply."""
        client = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
        return cls(client, prefix)

    def taxonomy(self) -> str | None:
        """The taxonomy that feeds read, None before the first tag."""
        value = self._redis.get(self._keys.taxonomy)
        return None if value is None else _bytes(value).decode()

    def get(self, ids: Iterable[str]) -> dict[str, Tag]:
        """Tags by id; ids that are not (or no longer) tagged are missing. One round trip per 500 ids."""
        found = {}
        unique = iter(dict.fromkeys(ids))
        while chunk := list(islice(unique, _CHUNK)):
            pipe = self._redis.pipeline(transaction=False)
            for upload_id in chunk:
                pipe.hget(self._keys.tag(upload_id), "tag")
            for upload_id, value in zip(chunk, pipe.execute(), strict=True):
                if (tag := _tag(value)) is not None:
                    found[upload_id] = tag
        return found

    def latest(
        self, cluster: int, limit: int = 50, cursor: str | None = None, taxonomy: str | None = None
    ) -> Page:
        """The newest tags of a cluster, by `uploaded_at`.

        Every upload that is in the cluster from the first page to the last is on exactly one of them.

        Args:
            cluster: its number; -1 is "other".
            limit: of tags, 1 to 1000.
            cursor: of the page before.
            taxonomy: by default the one that feeds read, or the cursor's.

        Returns:
            At most `limit` tags; fewer only at the end. Three round trips for most pages.

        Raises:
            ValueError: the limit is out of range, or the cursor is not one of this cluster.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit must be 1 to {MAX_LIMIT}, got {limit}")
        after = None if cursor is None else _Cursor.decode(cursor)
        if after is not None and (after.cluster != cluster or taxonomy not in (None, after.taxonomy)):
            raise ValueError(
                f"the cursor is of cluster {after.cluster} in taxonomy {after.taxonomy}, "
                f"not of {cluster} in {printable(taxonomy)}"
            )
        taxonomy = taxonomy or (self.taxonomy() if after is None else after.taxonomy)
        if taxonomy is None or not TAXONOMY.fullmatch(taxonomy):
            return Page((), None)
        members = self._members(taxonomy, cluster, None if after is None else after.place, limit)
        found = list(islice(members, limit + 1))
        tags = tuple(tag for _, tag in found[:limit])
        more = len(found) > limit
        return Page(tags, _Cursor(taxonomy, cluster, found[limit - 1][0]).encode() if more else None)

    def clusters(self, taxonomy: str | None = None) -> dict[int, Cluster]:
        """The clusters that were tagged so far, by number; -1 ("other") is one of them once it was used."""
        taxonomy = taxonomy or self.taxonomy()
        if taxonomy is None or not TAXONOMY.fullmatch(taxonomy):
            return {}
        raw = self._redis.hgetall(self._keys.clusters(taxonomy))
        values = {int(_bytes(key)): orjson.loads(_bytes(value)) for key, value in raw.items()}
        return {n: Cluster(n, values[n].get("name"), values[n]["model"]) for n in sorted(values)}

    def overview(self, limit: int = 12, since: int = 0, taxonomy: str | None = None) -> dict[int, Latest]:
        """All clusters at a glance, in four round trips however many there are.

        Args:
            limit: newest tags of each cluster, 1 to 1000; a few less where some just left the cluster.
            since: milliseconds since the epoch, what `recent` counts from.
            taxonomy: by default the one that feeds read.

        Raises:
            ValueError: the limit is out of range.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit must be 1 to {MAX_LIMIT}, got {limit}")
        taxonomy = taxonomy or self.taxonomy()
        clusters = self.clusters(taxonomy)
        pipe = self._redis.pipeline(transaction=False)
        for number in clusters:
            key = self._keys.cluster(str(taxonomy), number)
            pipe.zcard(key)
            pipe.zcount(key, since, "+inf")
            pipe.zrevrangebyscore(key, "+inf", "-inf", start=0, num=limit + _SPARE, withscores=True)
        replies = pipe.execute() if clusters else []
        counts, recent, raw = replies[0::3], replies[1::3], replies[2::3]
        asked = [
            (n, [_Place(int(score), _bytes(member)) for member, score in members])
            for n, members in zip(clusters, raw, strict=True)
        ]
        found = self._belonging(str(taxonomy), asked)
        return {
            n: Latest(cluster, counts[i], recent[i], tuple(tag for _, tag in found[i][:limit]))
            for i, (n, cluster) in enumerate(clusters.items())
        }

    def _members(
        self, taxonomy: str, cluster: int, after: _Place | None, limit: int
    ) -> Iterator[tuple[_Place, Tag]]:
        """Members that follow `after`, without those that are in the set by mistake: an id whose hash names
        another cluster, or nothing (a tag that moved, was deleted, or expired)."""
        while places := self._places(taxonomy, cluster, after, limit + 1):
            yield from self._belonging(taxonomy, [(cluster, places)])[0]
            after = places[-1]

    def _places(self, taxonomy: str, cluster: int, after: _Place | None, count: int) -> list[_Place]:
        """The next places of the sorted set, `count` at most.

        Redis can only begin at a score, so those of the same score up to `after` are read once more and
        left out; with many of one score (a bulk import) that takes more than one round.
        """
        key, highest = self._keys.cluster(taxonomy, cluster), "+inf" if after is None else after.score
        ask = count if after is None else count + _SPARE
        while True:
            raw = self._redis.zrevrangebyscore(key, highest, "-inf", start=0, num=ask, withscores=True)
            places = [_Place(int(score), _bytes(member)) for member, score in raw]
            found = [place for place in places if after is None or place < after][:count]
            if found or len(raw) < ask:
                return found
            ask *= 2  # from the first of that score again: what leaves the set meanwhile shifts the others

    def _belonging(
        self, taxonomy: str, asked: Sequence[tuple[int, Sequence[_Place]]]
    ) -> list[list[tuple[_Place, Tag]]]:
        """For each (cluster, places): the places whose hash names that cluster, with the tag."""
        pipe = self._redis.pipeline(transaction=False)
        for _, places in asked:
            for place in places:
                pipe.hmget(self._keys.tag(place.member.decode()), "taxonomy", "cluster", "tag")
        replies = iter(pipe.execute() if any(places for _, places in asked) else ())
        return [
            [
                (place, tag)
                for place, (its_taxonomy, its_cluster, value) in zip(places, replies, strict=False)
                if _is(its_taxonomy, taxonomy)
                and _is(its_cluster, str(cluster))
                and (tag := _tag(value)) is not None
            ]
            for cluster, places in asked
        ]


def _is(value: bytes | str | None, text: str) -> bool:
    return value is not None and _bytes(value) == text.encode()


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _tag(value: bytes | str | None) -> Tag | None:
    if value is None:
        return None
    try:
        return Tag.from_json(_bytes(value))
    except ValueError:
        return None  # written by something else; a reader can do no more than leave it out
