"""Kafka → records, and the table of owned partitions. The consumer half of Kafka's types.

All of it runs on the one thread that owns Kafka: a poll in one thread makes other calls wait in another.

Every assignment of a partition gets a new epoch. Work carries (partition, epoch, offset), and what comes back
with an old epoch is dropped: another member may own the partition by then.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
)
from confluent_kafka import TopicPartition as KafkaPartition

from worker import log as logs
from worker.errors import StartError
from worker.metrics import Metrics
from worker.offsets import PartitionOffsets

log = logs.get(__name__)
client_log = logging.getLogger("worker.kafka")

# A position that could not be read is asked for again after this long; polls go on meanwhile.
_POSITION_TIMEOUT = 2.0
_POSITION_RETRY = 0.5
_MAX_FETCH = 500  # records taken from librdkafka's queue in one turn


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One record of the uploads topic.

    Attributes:
        epoch: of the assignment under which it was read.
        timestamp: milliseconds since the epoch; when it was read if the broker gave none.
        traceparent: the W3C trace header, where there is one.
    """

    partition: int
    epoch: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    traceparent: bytes | None = None


@dataclasses.dataclass(slots=True)
class _Owned:
    """One assigned partition; `offsets` is None until its position is known."""

    epoch: int
    offsets: PartitionOffsets | None = None
    reset: bool = False  # librdkafka had nowhere to begin
    ask_at: float = -math.inf
    held_back: int | None = None  # first offset that waits until commits can describe it
    last_timestamp: int = 0


def consumer_config(bootstrap: str, group: str, protocol: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka's configuration for reading uploads.

    Small queues, because pausing throws away what was prefetched: at 2,500 records/s and 5 pauses a second
    the defaults fetch 369 MB to use 6.
    """
    return {
        "queued.min.messages": 500,
        "max.partition.fetch.bytes": 65536,
        # a broker answers one request of a connection after the other: a long poll would hold up questions
        "fetch.wait.max.ms": 100,
        "client.id": "imgclust-worker",
        **extra,
        **group_protocol(protocol),
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",  # nothing is ever skipped in silence
        "isolation.level": "read_committed",
    }


def group_protocol(protocol: str) -> dict[str, str]:
    """`classic` rebalances cooperatively, so that partitions that stay go on; `consumer` is KIP-848."""
    if protocol == "consumer":
        return {"group.protocol": "consumer"}
    return {"partition.assignment.strategy": "cooperative-sticky"}


class UploadsConsumer:
    """The uploads topic as records of owned partitions, and the way back: offsets that are done."""

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        *,
        start: str,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        metrics: Metrics,
        on_leaving: Callable[[set[int], bool], None],
    ) -> None:
        """Join the group.

        Args:
            config: see `consumer_config`.
            start: "earliest" or "latest", for partitions without a committed offset.
            clock: monotonic seconds.
            wall_ms: milliseconds since the epoch, for records without a timestamp.
            on_leaving: called with partitions that are given up, and whether they are lost already. When they
                are not, what is done until it returns is committed.
        """
        self._topic = topic
        self._start = start
        self._clock = clock
        self._wall_ms = wall_ms
        self._metrics = metrics
        self._on_leaving = on_leaving
        self._owned: dict[int, _Owned] = {}
        self._epoch = 0
        self._paused = False
        self._fatal: KafkaError | None = None
        self._consumer = Consumer(
            {**config, "on_commit": self._on_commit, "error_cb": self._on_error}, logger=client_log
        )
        self._consumer.subscribe(
            [topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────

    def poll(self, limit: int, timeout: float) -> list[Record]:
        """Up to `limit` new records; waits at most `timeout` seconds for the first one.

        Must be called again and again, also while paused, or the group takes the partitions away.
        """
        messages: list[Message] = []
        first = self._consumer.poll(timeout)
        if first is not None:
            messages.append(first)
            if limit > 1:
                messages += self._consumer.consume(min(limit, _MAX_FETCH) - 1, 0)
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        records = []
        for message in messages:
            record = self._accept(message)
            if record is not None:
                records.append(record)
        if any(owned.offsets is None or owned.held_back is not None for owned in self._owned.values()):
            self._attend()
        return records

    def _accept(self, message: Message) -> Record | None:
        error = message.error()
        partition = message.partition()
        owned = self._owned.get(partition) if partition is not None else None
        if error is not None:
            self._read_error(error, partition, owned)
            return None
        if owned is None:  # read before a revocation
            return None
        offset = message.offset()
        if partition is None or offset is None:  # only errors come without them
            return None
        if owned.offsets is None and not self._begin(partition, owned, offset):
            return None
        offsets = owned.offsets
        if offsets is None or owned.held_back is not None:
            return None  # it is read again from the position
        if not offsets.fits(offset):
            self._hold_back(partition, owned, offset)
            return None
        if not offsets.take(offset):
            return None
        kind, timestamp = message.timestamp()
        owned.last_timestamp = self._wall_ms() if kind == TIMESTAMP_NOT_AVAILABLE else timestamp
        return Record(
            partition,
            owned.epoch,
            offset,
            message.key(),
            message.value(),
            owned.last_timestamp,
            _traceparent(message),
        )

    def _read_error(self, error: KafkaError, partition: int | None, owned: _Owned | None) -> None:
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET and owned is not None and partition is not None:
            owned.reset = True
            owned.offsets = None
            self._begin(partition, owned, None)
        elif code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
            raise StartError(f"Kafka refuses to let this worker read {self._topic!r}: {error.str()}")
        elif error.fatal():
            raise KafkaException(error)
        else:
            log.warning("reading failed for now", topic=self._topic, partition=partition, error=error.str())

    # ── where a partition begins ─────────────────────────────────────────────────────────────────────────

    def _begin(self, partition: int, owned: _Owned, first: int | None) -> bool:
        """Learn the position of a new assignment; False while it is not to be had.

        Asked here and not in on_assign, because the answer may wait for the open transaction of a dead
        member, and because the previous owner may have committed after librdkafka read the offset.
        """
        if self._clock() < owned.ask_at:
            return False
        here = KafkaPartition(self._topic, partition)
        try:
            committed = self._consumer.committed([here], timeout=_POSITION_TIMEOUT)[0]
            if committed.error is not None:
                raise KafkaException(committed.error)
            low, high = 0, 0
            if owned.reset or committed.offset < 0:
                low, high = self._consumer.get_watermark_offsets(here, timeout=_POSITION_TIMEOUT)
        except KafkaException as error:
            owned.ask_at = self._clock() + _POSITION_RETRY
            log.debug("position not known yet", partition=partition, error=error.args[0].str())
            return False
        if committed.offset < 0:
            position = low if self._start == "earliest" else high
            owned.offsets = PartitionOffsets(position, known=False)
            log.info("partition begins", partition=partition, offset=position, start=self._start)
        elif owned.reset and not low <= committed.offset <= high:
            self._count_lost(partition, committed.offset, low, high)
            position = low
            owned.offsets = PartitionOffsets(position, known=False)
        else:
            position = committed.offset
            owned.offsets = PartitionOffsets(position, committed.metadata)
        if owned.reset or (first is not None and first != position):
            owned.reset = False
            self._go_to(partition, position)
            return False
        return True

    def _count_lost(self, partition: int, committed: int, low: int, high: int) -> None:
        lost = max(0, low - committed)
        self._metrics.records_lost.inc(lost)
        log.error(
            "committed offset is outside of the log; going on at the log's start",
            partition=partition, committed=committed, log_start=low, log_end=high, records_lost=lost,
        )  # fmt: skip

    def _go_to(self, partition: int, offset: int) -> None:
        """Read on from `offset`. Not by seek(): it refuses a partition that found nowhere to begin."""
        self._consumer.incremental_unassign([KafkaPartition(self._topic, partition)])
        self._consumer.incremental_assign([KafkaPartition(self._topic, partition, offset)])
        if self._paused:
            self._consumer.pause([KafkaPartition(self._topic, partition)])

    def _hold_back(self, partition: int, owned: _Owned, offset: int) -> None:
        owned.held_back = offset
        self._consumer.pause([KafkaPartition(self._topic, partition)])
        log.warning("partition waits: an upload far behind is not done", partition=partition, offset=offset)

    def _attend(self) -> None:
        """See to partitions without a position, and to those that wait for their commits to catch up."""
        for partition, owned in list(self._owned.items()):
            if owned.offsets is None and owned.reset:
                self._begin(partition, owned, None)
            elif (
                owned.offsets is not None
                and owned.held_back is not None
                and owned.offsets.fits(owned.held_back)
            ):
                offset, owned.held_back = owned.held_back, None
                self._go_to(partition, offset)

    # ── ownership ────────────────────────────────────────────────────────────────────────────────────────

    def owns(self, partition: int, epoch: int) -> bool:
        owned = self._owned.get(partition)
        return owned is not None and owned.epoch == epoch

    @property
    def partitions(self) -> list[int]:
        return sorted(self._owned)

    def _assigned(self, _: Consumer, partitions: list[KafkaPartition]) -> None:
        self._metrics.rebalances.inc()
        self._consumer.incremental_assign([KafkaPartition(self._topic, p.partition) for p in partitions])
        for p in partitions:
            self._epoch += 1
            self._owned[p.partition] = _Owned(self._epoch)
        # a paused partition stays paused across assignments; start from a known state
        if self._owned:
            self._consumer.resume([KafkaPartition(self._topic, p) for p in self._owned])
            self._paused = False
        log.info("partitions assigned", new=[p.partition for p in partitions], owned=self.partitions)

    def _revoked(self, _: Consumer, partitions: list[KafkaPartition]) -> None:
        self._leave(partitions, lost=False)

    def _lost(self, _: Consumer, partitions: list[KafkaPartition]) -> None:
        self._leave(partitions, lost=True)  # somebody else owns them already: nothing may be committed

    def _leave(self, named: list[KafkaPartition], *, lost: bool) -> None:
        # a revocation may name partitions that are not ours (confluent-kafka-python #1551)
        leaving = {p.partition for p in named if p.partition in self._owned}
        self._on_leaving(leaving, lost)
        if leaving and not lost:
            self.commit(wait=True)
        for partition in leaving:
            del self._owned[partition]
            self._metrics.drop_partition(partition)
        self._metrics.rebalances.inc()
        self._consumer.incremental_unassign([KafkaPartition(self._topic, p.partition) for p in named])
        log.info(
            "partitions lost" if lost else "partitions revoked",
            leaving=sorted(leaving),
            owned=self.partitions,
        )

    # ── backpressure ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self) -> None:
        """Stop reading; `poll` still has to be called."""
        self._paused = True
        self._consumer.pause([KafkaPartition(self._topic, p) for p in self._owned])

    def resume(self) -> None:
        self._paused = False
        ready = [p for p, owned in self._owned.items() if owned.held_back is None]
        self._consumer.resume([KafkaPartition(self._topic, p) for p in ready])

    # ── committing ───────────────────────────────────────────────────────────────────────────────────────

    def done(self, record: Record) -> None:
        """The result of `record` is safe."""
        owned = self._owned.get(record.partition)
        if owned is not None and owned.epoch == record.epoch and owned.offsets is not None:
            owned.offsets.done(record.offset)

    def commit(self, *, wait: bool = False) -> None:
        """Commit what is done and not yet committed; with `wait`, until the broker has it."""
        states: dict[int, tuple[int, str]] = {}
        for partition, owned in self._owned.items():
            state = owned.offsets.uncommitted() if owned.offsets is not None else None
            if state is not None:
                states[partition] = state
        if not states:
            return
        offsets = [
            KafkaPartition(self._topic, p, offset, metadata) for p, (offset, metadata) in states.items()
        ]
        try:
            if wait:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._commit_failed(states, error.args[0])
            return
        for partition, state in states.items():
            offsets_of = self._owned[partition].offsets
            if offsets_of is not None:
                offsets_of.committed(state)
        self._metrics.commits["committed"].inc()

    def _on_commit(self, error: KafkaError | None, partitions: list[KafkaPartition]) -> None:
        if error is not None:
            self._commit_failed({p.partition: (p.offset, "") for p in partitions}, error)

    def _commit_failed(self, states: Iterable[int], error: KafkaError) -> None:
        # harmless: what was published may be published again, and the next commit says all of it
        self._metrics.commits["failed"].inc()
        log.warning("commit failed; it is tried again", error=error.str())
        for partition in states:
            owned = self._owned.get(partition)
            if owned is not None and owned.offsets is not None:
                owned.offsets.not_committed()

    # ── watching ─────────────────────────────────────────────────────────────────────────────────────────

    def report(self) -> None:
        """Bring the metrics of all owned partitions up to date, from what the broker told last."""
        self._metrics.assigned.set(len(self._owned))
        self._metrics.paused.set(len(self._owned) if self._paused else 0)
        for partition, owned in self._owned.items():
            if owned.offsets is None:
                continue
            _, high = self._consumer.get_watermark_offsets(
                KafkaPartition(self._topic, partition), cached=True
            )
            unread = max(0, high - owned.offsets.next)
            age = max(0.0, (self._wall_ms() - owned.last_timestamp) / 1000) if unread else 0.0
            self._metrics.set_lag(partition, unread, owned.offsets.next - owned.offsets.position, age)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        else:
            log.warning("Kafka client", error=error.str())

    def close(self) -> None:
        """Commit what is done and leave the group."""
        self._consumer.close()


def _traceparent(message: Message) -> bytes | None:
    headers = message.headers()
    if headers:
        pairs = headers.items() if isinstance(headers, dict) else headers
        for name, value in pairs:
            if name == "traceparent" and isinstance(value, bytes) and len(value) <= 64:
                return value
    return None
