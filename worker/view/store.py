"""Tag records → Redis: idempotent, in any order, and refusing what is older than what is there.

Everything here may be repeated: the hash of an id is written by a script that compares positions, sorted
sets are corrected by their readers, and how far a Redis has come is kept in that Redis itself, so that one
which lost its data, or some of it, is noticed (docs/decisions/0052, 0053).
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
import redis

from worker.messages import compact
from worker.messages.tag import TAXONOMY
from worker.telemetry import log as logs
from worker.view.client import Client, parse_pair, text_of, trouble
from worker.view.cluster import run_pipeline
from worker.view.keys import Keys
from worker.view.records import FUTURE_MS, TagRecord
from worker.view.scripts import ADVANCE, PUT

log = logs.get(__name__)

DAY_MS = 86_400_000
TAG_DAYS = 30  # a tag is kept so long after uploaded_at, unless set otherwise
DELETED_DAYS = 7  # the position of a deleted upload is kept so long: longer than any writer sleeps
SET_SIZE = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Offsets [start, end) of a partition, all of whose records are known; at `at` (ms since the epoch) there
    was nothing else in the topic."""

    start: int
    end: int
    at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Reached:
    """How far a Redis has come in a partition.

    Attributes:
        offset: -1 when it knows nothing of it.
        topic: the id of the topic that this is an offset of; empty when that is not known.
    """

    offset: int = -1
    at: int = 0
    topic: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What became of some records, and the offset that Redis has reached in each partition (-1: it knows
    nothing of the partition)."""

    written: int
    stale: int
    malformed: int
    reached: Mapping[int, int]


def _reached(mark: bytes | str | None, topic: bytes | str | None) -> Reached:
    """As a hash of marks has it."""
    return Reached(*(parse_pair(mark) or (-1, 0)), text_of(topic or b""))


_Name = tuple[int, str | None, str, int | None]  # when, name, model, group


@dataclasses.dataclass(slots=True)
class _Sets:
    """Changes to the sorted sets, by key."""

    add: dict[bytes, dict[str, int]] = dataclasses.field(default_factory=dict)
    remove: dict[bytes, set[str]] = dataclasses.field(default_factory=dict)

    def put(self, key: bytes, upload_id: str, at: int) -> None:
        self.add.setdefault(key, {})[upload_id] = at
        self.remove.get(key, set()).discard(upload_id)

    def drop(self, key: bytes, upload_id: str) -> None:
        self.remove.setdefault(key, set()).add(upload_id)
        self.add.get(key, {}).pop(upload_id, None)


class TagsView:
    """Writes tag records to one Redis.

    Args:
        client: see `connect`; a `redis.RedisCluster` will do.
        prefix: of every key.
        keep: seconds after `uploaded_at` that a tag is kept.
        set_size: newest members kept in each cluster's sorted set.
        packed: write tags in some fifty bytes (`worker.messages.compact`) instead of as JSON.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        client: Client,
        prefix: str = "imgclust:",
        *,
        keep: float = TAG_DAYS * DAY_MS / 1000,
        set_size: int = SET_SIZE,
        packed: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.client = client
        self.keys = Keys(prefix)
        self._marks = self.keys.marks(spread=isinstance(client, redis.RedisCluster))
        self._keep_ms = int(keep * 1000)
        self._set_size = set_size
        self._packed = packed
        self._now = now
        # what `…:clusters` holds, by (taxonomy, cluster)
        self._named: dict[tuple[str, int], _Name] = {}
        self._taxonomy_set = False

    def apply(self, records: Sequence[TagRecord], spans: Mapping[int, Span]) -> Applied:
        """Write records, in two round trips.

        Args:
            records: in the order in which they were read.
            spans: what `records` are all of, for each partition.

        Raises:
            RedisTrouble: some or all of it was not written; to be repeated as a whole.
        """
        latest: dict[tuple[str, int], TagRecord] = {}
        for record in records:
            before = latest.pop(
                (record.id, record.partition), record
            )  # popped: the order is that of the last
            latest[record.id, record.partition] = max(before, record, key=lambda r: r.offset)
        chosen = list(latest.values())
        replies = self._send(lambda pipe: self._queue_tags(pipe, chosen))
        sets, written, stale, malformed = _Sets(), 0, len(records) - len(chosen), 0
        fresh: list[TagRecord] = []
        for record, reply in zip(chosen, replies, strict=True):
            if isinstance(reply, redis.ResponseError):  # WRONGTYPE: somebody else's key
                malformed += 1
                log.error(
                    "a tag's key is not a hash", key=self.keys.tag(record.id), partition=record.partition
                )
            elif reply == 0:
                stale += 1
            else:
                written += 1
                fresh.append(record)
                self._plan(sets, record, reply)
        reached = self._finish(sets, fresh, spans)
        return Applied(written, stale, malformed, reached)

    def reached(self, partitions: Sequence[int]) -> dict[int, Reached]:
        """How far this Redis has come in each partition; asks it even if there are none.

        Raises:
            RedisTrouble
        """
        fields = [*map(str, partitions), *map("topic:{}".format, partitions)] or ["-"]

        def ask(pipe: Any) -> None:
            for mark in self._marks:
                pipe.hmget(mark, fields)

        replies = self._send(ask)
        found = [
            [
                _reached(*each)
                for each in zip(values[: len(partitions)], values[len(partitions) :], strict=False)
            ]
            for values in replies
        ]
        lowest = [min(each, key=lambda reached: reached.offset) for each in zip(*found, strict=True)]
        return dict(zip(partitions, lowest, strict=False))

    def restart(self, starts: Mapping[int, Reached]) -> None:
        """Note that everything from these offsets on is yet to be written.

        Raises:
            RedisTrouble
        """
        self._named.clear()  # a Redis that lost its data lost the names too
        self._taxonomy_set = False

        def note(pipe: Any) -> None:
            for mark in self._marks:
                for partition, start in starts.items():
                    pipe.hset(mark, str(partition), f"{start.offset}:{start.at}")
                    if start.topic:
                        pipe.hset(mark, f"topic:{partition}", start.topic)

        self._send(note)

    def note_topics(self, topics: Mapping[int, str]) -> None:
        """Note which topic the offsets of these partitions are of.

        Raises:
            RedisTrouble
        """

        def note(pipe: Any) -> None:
            for mark in self._marks:
                for partition, topic in topics.items():
                    pipe.hset(mark, f"topic:{partition}", topic)

        self._send(note)

    def _queue_tags(self, pipe: Any, records: Iterable[TagRecord]) -> None:
        for record in records:
            PUT.queue(pipe, self.keys.tag(record.id), *self._put_arguments(record))

    def _put_arguments(self, record: TagRecord) -> tuple[object, ...]:
        expires = record.at + self._keep_ms
        if record.tag is None or expires <= self._now() * 1000:
            # an expired tag is kept as a position too: a writer that slept could bring an older one back
            return (record.partition, record.offset, record.timestamp + DELETED_DAYS * DAY_MS, "", "", "")
        tag = record.tag
        value = compact.pack(tag) if self._packed else record.value
        return (record.partition, record.offset, expires, value, tag.taxonomy, tag.cluster)

    def _plan(self, sets: _Sets, record: TagRecord, reply: Any) -> None:
        if isinstance(reply, list):
            taxonomy, cluster = (text_of(part) for part in reply)
            if TAXONOMY.fullmatch(taxonomy) and re.fullmatch(r"-?\d{1,10}", cluster):
                sets.drop(self.keys.cluster(taxonomy, int(cluster)), record.id)
        if record.tag is not None:
            sets.put(self.keys.cluster(record.tag.taxonomy, record.tag.cluster), record.id, record.at)

    def _finish(self, sets: _Sets, fresh: Iterable[TagRecord], spans: Mapping[int, Span]) -> dict[int, int]:
        """Second round trip: sets, names, and how far we are (wrongly so if a set was refused; then all of
        it is repeated, and whoever dies before that starts again at the offset committed in Kafka)."""
        names = self._new_names(fresh)
        replies = self._send(lambda pipe: self._queue(pipe, sets, names, spans))
        marks = len(self._marks) * len(spans)
        others, reached = replies[: len(replies) - marks], replies[len(replies) - marks :]
        for reply in others:
            if isinstance(reply, redis.ResponseError):
                log.error("a cluster's key has another type; it is left alone", error=str(reply))
        for reply in reached:
            if isinstance(reply, redis.ResponseError):
                raise trouble(reply)
        self._named.update(names)
        self._taxonomy_set = self._taxonomy_set or bool(names)
        return {p: min(reached[i :: len(spans)]) for i, p in enumerate(spans)}

    def _queue(
        self, pipe: Any, sets: _Sets, names: Mapping[tuple[str, int], _Name], spans: Mapping[int, Span]
    ) -> None:
        oldest = int(self._now() * 1000) - self._keep_ms
        for key, members in sets.remove.items():
            if members:
                pipe.zrem(key, *members)
        for key, scores in sets.add.items():
            if scores:
                pipe.zadd(key, scores)
                pipe.zremrangebyscore(key, "-inf", oldest)
                pipe.zremrangebyrank(key, 0, -self._set_size - 1)
                pipe.pexpire(key, self._keep_ms + FUTURE_MS)  # of a taxonomy that nobody writes any more
        for (taxonomy, cluster), (_, name, model, group) in names.items():
            value = {"name": name, "model": model, **({} if group is None else {"group": group})}
            pipe.hset(self.keys.clusters(taxonomy), str(cluster), orjson.dumps(value))
        if names and not self._taxonomy_set:
            pipe.set(self.keys.taxonomy, next(iter(names))[0], nx=True)
        for mark in self._marks:
            for partition, span in spans.items():
                ADVANCE.queue(pipe, mark, partition, span.start, span.end, span.at)

    def _new_names(self, records: Iterable[TagRecord]) -> dict[tuple[str, int], _Name]:
        """Names of clusters that Redis does not have, each from the tag that was made last."""
        new: dict[tuple[str, int], _Name] = {}
        for record in records:
            if (tag := record.tag) is None:
                continue
            cluster, value = (tag.taxonomy, tag.cluster), (tag.tagged_at, tag.name, tag.model, tag.group)
            known = new.get(cluster) or self._named.get(cluster)
            if known is None or (tag.tagged_at >= known[0] and known[1:] != value[1:]):
                new[cluster] = value
        return new

    def _send(self, build: Callable[[Any], None]) -> list[Any]:
        """Send one pipeline; a Redis that lost the scripts is given them again.

        Returns:
            The replies; of the errors only WRONGTYPE is among them: it concerns one key, now and later.

        Raises:
            RedisTrouble
        """
        try:
            replies = run_pipeline(self.client, build, raise_on_error=False)
            if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
                for script in (PUT, ADVANCE):
                    self.client.script_load(script.source)
                replies = run_pipeline(self.client, build, raise_on_error=False)
        except redis.RedisError as error:
            raise trouble(error) from error
        for reply in replies:
            if isinstance(reply, redis.RedisError) and "WRONGTYPE" not in str(reply):
                raise trouble(reply)
        return replies
