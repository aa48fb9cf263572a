"""Topics as they stand, for the operators' commands: read from the start to the end that they have now.

No group is joined and nothing is committed, so looking never disturbs a worker.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.errors import KafkaAway, StartError, WorkerError
from worker.kafka.client_config import reader_config
from worker.kafka.reading import client_log, headers_of, some_of
from worker.messages.formats import Formats
from worker.messages.headers import SourcePosition
from worker.messages.text import readable

TIMEOUT = 10.0  # seconds for each question to the brokers
QUIET = 30.0  # a broker that sends nothing for so long is away
CHUNK = 2000  # records of one call
PAUSE = 0.1  # seconds between two questions to a partition without a leader

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Told how many offsets have been passed, and of how many."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One record of any of the four topics; headers that are not UTF-8 text are left out.

    Attributes:
        formats: what uploads and tags are written in.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int  # milliseconds since the epoch
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, str]
    formats: Formats = dataclasses.field(default=Formats(), compare=False, repr=False)

    @property
    def position(self) -> str:
        return f"{self.partition}:{self.offset}"

    @property
    def source(self) -> SourcePosition | None:
        """The upload that a result's headers name; None when they name none."""
        return SourcePosition.read(self.headers)


class Scanner:
    """Reads topics as `read_committed` readers see them; a context manager.

    Args:
        connection: librdkafka properties that lead to the brokers.
        group: whose offsets `committed` returns; it is not joined.
    """

    def __init__(
        self, connection: Mapping[str, Any], group: str | None = None, formats: Formats | None = None
    ) -> None:
        self.formats = formats or Formats()
        self._consumer = Consumer(reader_config(connection, "imgclust-operator", group), logger=client_log)

    def __enter__(self) -> Scanner:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def membership(self) -> Any:
        """What a producer commits the group's offsets with, in a transaction of its own."""
        return self._consumer.consumer_group_metadata()

    def partitions(self, topic: str) -> list[int]:
        """
        Raises:
            StartError: Kafka is away, or has no such topic.
        """
        try:
            found = self._consumer.list_topics(topic, timeout=TIMEOUT).topics[topic]
        except KafkaException as error:
            raise KafkaAway(
                f"no answer from Kafka within {TIMEOUT:g} s ({error.args[0].str()}); "
                "check WORKER_BOOTSTRAP_SERVERS"
            ) from None
        if found.error is not None or not found.partitions:
            raise StartError(f"there is no topic {topic!r} (or this user may not see it)")
        return sorted(found.partitions)

    def committed(self, topic: str, partitions: Collection[int]) -> dict[int, tuple[int, str]]:
        """What the group has committed: partition → (offset, metadata); those without are missing.

        Raises:
            WorkerError: the brokers do not say (an open transaction of a dead worker hides it for seconds).
        """
        asked = [TopicPartition(topic, p) for p in partitions]
        try:
            found = _all_of(self._consumer.committed(asked, timeout=TIMEOUT))
        except KafkaException as error:
            raise WorkerError(
                f"the group's committed offsets cannot be read: {error.args[0].str()}"
            ) from None
        return {p.partition: (p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset that is there, and one past the last that is committed.

        Raises:
            WorkerError: the brokers do not say.
        """
        here = TopicPartition(topic, partition)
        try:
            low, high = _ask(lambda: self._consumer.get_watermark_offsets(here, timeout=TIMEOUT))
        except KafkaException as error:
            raise _unreadable(topic, partition, error.args[0]) from None
        return low, high

    def offsets_at(self, topic: str, partitions: Collection[int], since_ms: int) -> dict[int, int]:
        """The first offset of each partition whose record is not older than `since_ms`; its end if all are.

        Raises:
            WorkerError: the brokers do not say.
        """
        asked = [TopicPartition(topic, p, since_ms) for p in partitions]
        try:
            found = _ask(lambda: _all_of(self._consumer.offsets_for_times(asked, timeout=TIMEOUT)))
        except KafkaException as error:
            raise _unreadable(topic, None, error.args[0]) from None
        return {p.partition: p.offset if p.offset >= 0 else self.bounds(topic, p.partition)[1] for p in found}

    def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        *,
        until: Mapping[int, int] | None = None,
        wanted: Callable[[bytes | None, bytes | None], bool] | None = None,
        progress: Progress | None = None,
    ) -> Generator[Entry]:
        """Everything from `starts` (partition → offset; at least the log's start) to the ends of now.

        Args:
            until: partition → where it ends before that.
            wanted: asked with key and value; what it does not want is passed over cheaply.

        Raises:
            WorkerError: a partition cannot be read.
        """
        ends = {p: self.bounds(topic, p) for p in starts}
        for p, end in (until or {}).items():
            ends[p] = ends[p][0], min(ends[p][1], end)
        begin = {p: max(offset, ends[p][0]) for p, offset in starts.items()}
        reached = dict(begin)
        left = {p for p in starts if begin[p] < ends[p][1]}
        total = sum(ends[p][1] - begin[p] for p in left)
        self._consumer.assign([TopicPartition(topic, p, begin[p]) for p in sorted(left)])
        heard = time.monotonic()
        try:
            while left:
                messages = some_of(self._consumer, 0.5, CHUNK)
                if messages:
                    heard = time.monotonic()
                elif time.monotonic() - heard > QUIET:
                    raise WorkerError(f"Kafka has sent nothing of {topic!r} for {QUIET:g} s")
                for message in messages:
                    entry = self._accept(message, topic, ends, reached, left, wanted)
                    if entry is not None:
                        yield entry
                if progress is not None and messages:
                    progress(sum(min(reached[p], ends[p][1]) - begin[p] for p in begin), total)
        finally:
            self._consumer.unassign()

    def _accept(
        self,
        message: Message,
        topic: str,
        ends: Mapping[int, tuple[int, int]],
        reached: dict[int, int],
        left: set[int],
        wanted: Callable[[bytes | None, bytes | None], bool] | None,
    ) -> Entry | None:
        partition, error, offset = message.partition(), message.error(), message.offset()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF and partition is not None:
                left.discard(partition)
                reached[partition] = ends[partition][1]
            elif not error.retriable() and error.code() not in _PASSING:
                raise _unreadable(topic, partition, error)
            return None
        if partition not in left or partition is None or offset is None:
            return None
        reached[partition] = offset + 1
        if offset + 1 >= ends[partition][1]:
            left.discard(partition)
        if offset >= ends[partition][1]:
            return None
        key, value = message.key(), message.value()
        if wanted is not None and not wanted(key, value):
            return None
        at, headers = message.timestamp()[1], headers_of(message)
        return Entry(topic, partition, offset, at, key, value, headers, self.formats)


def _all_of(found: list[TopicPartition]) -> list[TopicPartition]:
    """
    Raises:
        KafkaException: the error of the first partition that has one.
    """
    for partition in found:
        if partition.error is not None:
            raise KafkaException(partition.error)
    return found


_NO_LEADER = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


def _ask(question: Callable[[], T]) -> T:
    """The answer of the first leader that gives one.

    Right after a topic was made or a broker died, a partition has no leader for a moment, or one that has not
    heard of it yet. librdkafka passes that on instead of asking again.

    Raises:
        KafkaException: any other answer, or this one for `TIMEOUT` seconds.
    """
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return question()
        except KafkaException as error:
            if error.args[0].code() not in _NO_LEADER or time.monotonic() >= deadline:
                raise
        time.sleep(PAUSE)


# reports of the client itself, which goes on trying
_PASSING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT)


def _unreadable(topic: str, partition: int | None, error: KafkaError) -> WorkerError:
    return WorkerError(f"{topic!r}, partition {partition}, cannot be read: {error.str()}")


def key_text(entry: Entry) -> str:
    """The record's key, safe to show."""
    return "–" if entry.key is None else readable(entry.key.decode("utf-8", "backslashreplace"))
