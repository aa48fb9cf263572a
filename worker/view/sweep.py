"""Slow repairs of the view: what should not be in Redis any more, and sets that disagree with hashes.

A sweep is an iterator: each step is a few round trips, so that the view's thread goes on with its work in
between. It may be broken off anywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import redis

from worker.view.client import Client, parse_pair, text_of, trouble
from worker.view.cluster import run_pipeline
from worker.view.keys import Keys
from worker.view.scripts import FORGET

SWEEP_SECONDS = 6 * 3600.0  # between two searches for strays
STEP = 500  # keys or members per step: some 5 ms of work


class Offsets:
    """A set of offsets from `start` on, one bit each: a hundred million take 12 MB."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._bits = bytearray()

    def add(self, offset: int) -> None:
        byte, bit = divmod(offset - self.start, 8)
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits) + len(self._bits) // 8))
        self._bits[byte] |= 1 << bit

    def __contains__(self, offset: int) -> bool:
        byte, bit = divmod(offset - self.start, 8)
        return 0 <= byte < len(self._bits) and bool(self._bits[byte] >> bit & 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Rebuild:
    """What was seen of a partition while it was read from its start; complete when `goal` is reached."""

    goal: int
    seen: Offsets

    def misses(self, offset: int) -> bool:
        """Whether the partition has no record of this offset any more."""
        return offset < self.goal and offset not in self.seen


class Sweeper:
    """Does the sweeps that are due, a step at a time: ghosts after a rebuild, else strays every few hours."""

    def __init__(self, client: Client, keys: Keys, clock: Callable[[], float]) -> None:
        self._client, self._keys, self._clock = client, keys, clock
        self._rebuilt: dict[int, Rebuild] = {}
        self._sweep: Iterator[int] | None = None
        self._next = clock() + SWEEP_SECONDS

    def expect(self, partition: int, rebuild: Rebuild) -> None:
        """The partition was read as a whole: what it does not have is to be removed."""
        self._rebuilt[partition] = rebuild

    def clear(self, partition: int) -> Iterator[int]:
        """Remove everything of a partition, at once; yields how many with each step."""
        return ghosts(self._client, self._keys, lambda its, _: its == partition)

    def step(self) -> int:
        """A few round trips of the sweep that is due, if one is; returns how many entries were removed.

        Raises:
            RedisTrouble: the sweep is broken off, and begins again with the next step.
        """
        sweep, self._sweep = self._sweep or self._due(), None
        if sweep is None or (removed := next(sweep, None)) is None:
            return 0
        self._sweep = sweep
        return removed

    def _due(self) -> Iterator[int] | None:
        if self._rebuilt:
            return self._ghosts(dict(self._rebuilt))
        if self._clock() < self._next:
            return None
        self._next = self._clock() + SWEEP_SECONDS
        return strays(self._client, self._keys)

    def _ghosts(self, rebuilt: Mapping[int, Rebuild]) -> Iterator[int]:
        def gone(partition: int, offset: int) -> bool:
            return partition in rebuilt and rebuilt[partition].misses(offset)

        yield from ghosts(self._client, self._keys, gone)
        self._rebuilt = {p: r for p, r in self._rebuilt.items() if rebuilt.get(p) is not r}


def ghosts(client: Client, keys: Keys, gone: Callable[[int, int], bool]) -> Iterator[int]:
    """Remove hashes whose record is not in the topic any more.

    Compaction forgets a deletion some time after it; a view that was away for longer never reads it. After
    all of the topic was read again, a hash whose record was not among what was read is such a ghost.

    Args:
        gone: whether the record at (partition, offset) is no longer in the topic.

    Yields:
        How many hashes each step removed.

    Raises:
        RedisTrouble
    """
    for chunk in _scan(client, keys.all_tags, "hash"):
        positions = _pipeline(client, [("HGET", key, "position") for key in chunk])
        judged = [
            (key, position)
            for key, position in zip(chunk, positions, strict=True)
            if (place := parse_pair(position)) is not None and gone(*place)
        ]
        removed = _pipeline(client, [("EVAL", FORGET.source, 1, *each) for each in judged])
        yield sum(reply for reply in removed if isinstance(reply, int))


def strays(client: Client, keys: Keys) -> Iterator[int]:
    """Remove members of sorted sets that their hash does not put there (a writer died between the two, or
    the tag has expired).

    Yields:
        How many members each step removed; each is a few round trips, also without any.

    Raises:
        RedisTrouble
    """
    for chunk in _scan(client, keys.all_clusters, "zset"):
        yield 0  # among a billion keys most chunks hold no set
        for key in chunk:
            if (place := keys.parse_cluster(text_of(key))) is not None:
                yield from _strays_of(client, keys, key, place)


def _strays_of(client: Any, keys: Keys, key: bytes, place: tuple[str, str]) -> Iterator[int]:
    cursor = 0
    while True:
        try:
            cursor, members = client.zscan(key, cursor, count=STEP)
        except redis.RedisError as error:
            raise trouble(error) from error
        wrong = _elsewhere(client, keys, dict(members), place)
        _pipeline(client, [("ZREM", key, member) for member in wrong])
        # another view may have put one there between the question and the answer: then it belongs
        back = wrong.keys() - _elsewhere(client, keys, wrong, place).keys()
        _pipeline(client, [("ZADD", key, wrong[member], member) for member in back])
        yield len(wrong) - len(back)
        if cursor == 0:
            return


def _elsewhere(
    client: Any, keys: Keys, members: dict[bytes, float], place: tuple[str, str]
) -> dict[bytes, float]:
    """Those whose hash does not name this taxonomy and cluster."""
    asked = [("HMGET", keys.tag(text_of(member)), "taxonomy", "cluster") for member in members]
    named = _pipeline(client, asked)
    expected = [part.encode() for part in place]
    return {m: score for (m, score), its in zip(members.items(), named, strict=True) if its != expected}


def _scan(client: Any, pattern: bytes, kind: str) -> Iterator[list[bytes]]:
    """Keys of a type, some at a time; from every primary where the client is one of a cluster."""
    try:
        spread = isinstance(client, redis.RedisCluster)
        nodes = [client.get_redis_connection(n) for n in client.get_primaries()] if spread else [client]
    except redis.RedisError as error:
        raise trouble(error) from error
    for node in nodes:
        cursor = 0
        while True:
            try:
                cursor, found = node.scan(cursor, match=pattern, count=STEP, _type=kind)
            except redis.RedisError as error:
                raise trouble(error) from error
            yield found
            if cursor == 0:
                break


def _pipeline(client: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    if not commands:
        return []

    def build(pipe: Any) -> None:
        for command in commands:
            pipe.execute_command(*command)

    try:
        return run_pipeline(client, build)
    except redis.RedisError as error:
        raise trouble(error) from error
