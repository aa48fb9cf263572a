"""Clients of a `FakeBroker`: what the worker uses of confluent-kafka's `Consumer` and `Producer`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    TIMESTAMP_CREATE_TIME,
    KafkaError,
    TopicCollection,
    TopicPartition,
)

from tests.support.fake_kafka import MAX_METADATA_BYTES, FakeBroker, Stored, Transaction, failure

Callback = Callable[[Any, list[TopicPartition]], None]


class FakeMessage:
    """A record as it is read, or an error in its place."""

    def __init__(
        self, topic: str, partition: int, offset: int, record: Stored | None, code: int | None = None
    ) -> None:
        self._topic, self._partition, self._offset = topic, partition, offset
        self._record = record or Stored(None, None, [])
        self._code = code

    def error(self) -> KafkaError | None:
        return None if self._code is None else KafkaError(self._code)

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._record.key

    def value(self) -> bytes | None:
        return self._record.value

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._record.headers or None

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, self._record.timestamp


class FakeConsumer:
    """Stands where confluent-kafka's `Consumer` stands.

    Attributes:
        group_owns: partitions that the group gave and has not taken back.
        moves: what was asked of it that moves a partition, e.g. ("seek", 7); ("assign", 0).
        silent: it has records and brings none.
        while_closing: partitions that the group gives while the client leaves.
        asynchronous: of each commit, whether it is not waited for.
    """

    def __init__(self, broker: FakeBroker, config: Mapping[str, Any]) -> None:
        self.broker, self.config = broker, config
        self.group = str(config.get("group.id", ""))
        self.member: str | None = None
        self.group_owns: set[int] = set()
        self.moves: list[tuple[str, int]] = []
        self.silent = False
        self.while_closing: list[int] = []
        self.forced_metadata: bytes | None = None
        self.asynchronous: list[bool] = []
        self._topic = ""
        self._on: dict[str, Callback] = {}
        self._answers: list[list[TopicPartition]] = []
        self._next: dict[tuple[str, int], int] = {}
        self._paused: set[tuple[str, int]] = set()
        self._at_end: dict[tuple[str, int], int] = {}  # where a partition's end was reported last
        self._errors: deque[FakeMessage] = deque()

    # ── the group ────────────────────────────────────────────────────────────────────────────────────────

    def subscribe(
        self, topics: list[str], *, on_assign: Callback, on_revoke: Callback, on_lost: Callback
    ) -> None:
        (self._topic,) = topics
        self._on = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost}

    def _follow_group(self) -> None:
        """Give back what the group has given to others; take what it gives."""
        if not self._on:
            return
        if self.member is None:
            self.member = self.broker.join(self.group, self)
        if self.member not in self.broker.members[self.group]:  # it was away for longer than its session
            self.take_away(self.group_owns, "lost")
            self.member = self.broker.join(self.group, self)
        wanted = self.broker.share(self.group, self.member, self._topic)
        self.take_away(self.group_owns - wanted, "revoke")
        free = {p for p in wanted - self.group_owns if self.broker.is_free(self.group, p)}
        if free:
            self.group_owns |= free
            self._on["assign"](self, self._named(free))

    def take_away(self, partitions: set[int], how: str = "revoke") -> None:
        if partitions:
            going = set(partitions)
            self._on[how](self, self._named(going))
            self.group_owns -= going

    def _named(self, partitions: set[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, p) for p in sorted(partitions)]

    def consumer_group_metadata(self) -> bytes:
        return self.forced_metadata or self.broker.metadata(self.group, self.member)

    def close(self) -> None:
        if self.member is not None:
            if self.while_closing:
                self.group_owns |= set(self.while_closing)
                self._on["assign"](self, self._named(set(self.while_closing)))
            self.take_away(set(self.group_owns))
            self.broker.leave(self.group, self.member)
        self.member, self._on = None, {}

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────

    def poll(self, timeout: float = 0) -> FakeMessage | None:
        self._follow_group()
        self._bring_answers()
        return next(iter(self._read(1)), None)

    def consume(self, count: int, timeout: float = 0) -> list[FakeMessage]:
        self._follow_group()
        return self._read(count)

    def _bring_answers(self) -> None:
        """To commits that were not waited for."""
        answers, self._answers = self._answers, []
        for offsets in answers:
            if "on_commit" in self.config:
                self.config["on_commit"](None, offsets)

    def _read(self, count: int) -> list[FakeMessage]:
        messages: list[FakeMessage] = []
        while self._errors and len(messages) < count:
            messages.append(self._errors.popleft())
        for here in [] if self.silent else list(self._next):
            if here not in self._paused and here in self.broker.logs:
                messages += self._read_one(here, count - len(messages))
        return messages

    def _read_one(self, here: tuple[str, int], count: int) -> list[FakeMessage]:
        stable = self.config.get("isolation.level") != "read_uncommitted"
        end = self.broker.end(*here, stable=stable)
        self._check_position(here)
        if here not in self._next:
            return [self._errors.popleft()]
        messages: list[FakeMessage] = []
        while self._next[here] < end and len(messages) < count:
            offset = self._next[here]
            self._next[here] += 1
            record = self.broker.logs[here][offset]
            if record.state != "marker" and (record.state != "aborted" or not stable):
                messages.append(FakeMessage(*here, offset, record))
        asked = str(self.config.get("enable.partition.eof", "false")).lower() == "true"
        if asked and self._next[here] >= end and len(messages) < count and self._at_end.get(here) != end:
            self._at_end[here] = end
            messages.append(FakeMessage(*here, self._next[here], None, KafkaError._PARTITION_EOF))
        return messages

    def _check_position(self, here: tuple[str, int]) -> None:
        """With auto.offset.reset=error a partition beside its log stands until it is positioned anew."""
        if not self.broker.starts[here] <= self._next[here] <= self.broker.end(*here, stable=False):
            del self._next[here]
            self._errors.append(FakeMessage(*here, -1001, None, KafkaError._AUTO_OFFSET_RESET))

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            self.moves.append(("assign", p.offset))
            here = p.topic, p.partition
            self._at_end.pop(here, None)
            self._next[here] = self._absolute(here, p.offset)
            if here not in self._paused and here in self.broker.logs:  # it is read at once
                self._check_position(here)

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.unassign()
        self.incremental_assign(partitions)

    def unassign(self) -> None:
        self._next.clear()

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            self._next.pop((p.topic, p.partition), None)

    def _absolute(self, here: tuple[str, int], offset: int) -> int:
        start = self.broker.starts[here]
        return {OFFSET_BEGINNING: start, OFFSET_END: len(self.broker.logs.get(here, ()))}.get(offset, offset)

    def seek(self, partition: TopicPartition) -> None:
        here = partition.topic, partition.partition
        if here not in self._next:
            raise failure(KafkaError._STATE)
        self.moves.append(("seek", partition.offset))
        self._next[here] = self._absolute(here, partition.offset)

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return [
            TopicPartition(p.topic, p.partition, self._next.get((p.topic, p.partition), OFFSET_INVALID))
            for p in partitions
        ]

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._paused |= {(p.topic, p.partition) for p in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._paused -= {(p.topic, p.partition) for p in partitions}

    def list_topics(self, topic: str, timeout: float = 0) -> None:
        self.moves.append(("look", 0))

    # ── offsets ──────────────────────────────────────────────────────────────────────────────────────────

    def committed(self, partitions: list[TopicPartition], timeout: float = 0) -> list[TopicPartition]:
        with self.broker.call("committed"):
            found = [self.broker.fetch_offset(self.group, p.topic, p.partition) for p in partitions]
        return found

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.asynchronous.append(asynchronous)
        if asynchronous:
            self._answers.append(offsets)
        with self.broker.call("commit-offsets"):
            if self.member is not None and self.member not in self.broker.members[self.group]:
                raise failure(KafkaError.UNKNOWN_MEMBER_ID)
            for p in offsets:
                here = self.group, p.topic, p.partition
                self.broker.committed[here] = p.offset, p.metadata or ""

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = 0, cached: bool = False
    ) -> tuple[int, int]:
        here = partition.topic, partition.partition
        if cached:
            return self.broker.starts[here], self.broker.end(*here)
        with self.broker.call("watermarks"):
            stable = self.config.get("isolation.level") != "read_uncommitted"
            found = self.broker.starts[here], self.broker.end(*here, stable=stable)
        return found


class FakeAdmin:
    """Stands where confluent-kafka's `AdminClient` stands; answers are there at once."""

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker

    def list_offsets(
        self, wanted: Mapping[TopicPartition, Any], *, isolation_level: Any, request_timeout: float
    ) -> dict[TopicPartition, Future[Any]]:
        """The ends, also behind what is not decided."""
        answers: dict[TopicPartition, Future[Any]] = {}
        with self.broker.call("list-offsets"):
            for here in wanted:
                answers[here] = Future()
                if (here.topic, here.partition) in self.broker.logs:
                    end = self.broker.end(here.topic, here.partition, stable=False)
                    answers[here].set_result(SimpleNamespace(offset=end))
                else:
                    answers[here].set_exception(failure(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return answers

    def describe_topics(self, topics: TopicCollection, request_timeout: float = 0) -> dict[str, Future[Any]]:
        answers: dict[str, Future[Any]] = {}
        for name in topics.topic_names:
            answers[name] = Future()
            if name in self.broker.ids:
                answers[name].set_result(SimpleNamespace(topic_id=self.broker.ids[name]))
            else:
                answers[name].set_exception(failure(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return answers


class FakeProducer:
    """Stands where confluent-kafka's `Producer` stands.

    Attributes:
        open: (topic, partition, record, callback) of what has no answer yet.
    """

    def __init__(self, broker: FakeBroker, config: Mapping[str, Any]) -> None:
        self.broker, self.config = broker, config
        self.id = str(config.get("transactional.id", ""))
        self.epoch: int | None = None
        self.open: list[tuple[str, int, Stored, Callable[..., None] | None]] = []
        self.purged = False
        self._refused = False

    def produce(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, partition: int = 0, *,
        headers: list[tuple[str, bytes]] | None = None, on_delivery: Callable[..., None] | None = None,
    ) -> None:  # fmt: skip
        record = Stored(key, value, list(headers or ()))
        if record.size > int(self.config.get("message.max.bytes", 1 << 40)):
            raise failure(KafkaError.MSG_SIZE_TOO_LARGE)
        if not self.id:
            self.open.append((topic, partition, record, on_delivery))
            return
        with self._fenced_call("produce"):
            record.state = "open"
            self.broker.open[self.id].records.append((topic, partition, record))
            self.broker.append(topic, partition, record)
            self.open.append((topic, partition, record, on_delivery))

    def answer(self, code: int | None = None) -> None:
        """The broker takes, or refuses, all that has no answer yet. What is of one partition is one request,
        which is refused whole."""
        answered, self.open = self.open, []
        sizes = Counter[tuple[str, int]]()
        for topic, partition, record, _ in answered:
            sizes[topic, partition] += record.size
        for topic, partition, record, on_delivery in answered:
            too_large = sizes[topic, partition] > self.broker.limits.get(topic, 1 << 40)
            refused = KafkaError.MSG_SIZE_TOO_LARGE if code is None and too_large else code
            if topic in self.broker.denied:
                refused = KafkaError.TOPIC_AUTHORIZATION_FAILED
            self._refused |= refused is not None
            if refused is None and not self.id:
                self.broker.append(topic, partition, record)
            if on_delivery is not None:
                on_delivery(None if refused is None else KafkaError(refused), None)

    def poll(self, timeout: float = 0) -> int:
        if self.broker.acknowledges:
            self.answer()
        return 0

    def flush(self, timeout: float = 0) -> int:
        self.answer()
        return 0

    def purge(self) -> None:
        self.purged = True

    def list_topics(self, topic: str, timeout: float = 0) -> None:
        with self.broker.call("metadata"):
            pass

    # ── transactions ─────────────────────────────────────────────────────────────────────────────────────

    def _fenced_call(self, name: str) -> Any:
        if self.epoch != self.broker.epochs[self.id]:
            self.broker.calls.append(name)
            raise failure(KafkaError._FENCED, fatal=True)
        return self.broker.call(name)

    def init_transactions(self, timeout: float = 0) -> None:
        with self.broker.call("init"):
            self.broker.finish(self.id, commit=False)  # what an earlier producer of this id left open
            self.broker.epochs[self.id] += 1
            self.epoch = self.broker.epochs[self.id]

    def begin_transaction(self) -> None:
        with self._fenced_call("begin"):
            self.broker.open[self.id] = Transaction()

    def send_offsets_to_transaction(
        self, offsets: list[TopicPartition], member: bytes, timeout: float = 0
    ) -> None:
        with self._fenced_call("send"):
            if not self.broker.is_known(member):
                raise failure(KafkaError.UNKNOWN_MEMBER_ID, txn_requires_abort=True)
            if any(len(p.metadata or "") > MAX_METADATA_BYTES for p in offsets):
                raise failure(KafkaError.OFFSET_METADATA_TOO_LARGE, txn_requires_abort=True)
            group = bytes(member)[11:].partition(b"\0")[0].decode()
            self.broker.open[self.id].offsets |= {
                (group, p.topic, p.partition): (p.offset, p.metadata or "") for p in offsets
            }

    def commit_transaction(self, timeout: float = 0) -> None:
        with self._fenced_call("commit"):
            self.answer()
            if self._refused:
                raise failure(KafkaError._INCONSISTENT, txn_requires_abort=True)
            self.broker.finish(self.id, commit=True)

    def abort_transaction(self, timeout: float = 0) -> None:
        with self._fenced_call("abort"):
            self._refused = False
            self.open = []
            self.broker.finish(self.id, commit=False)
