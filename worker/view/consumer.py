"""Tags topic → Redis: a consumer group of its own, which Redis being away delays and nothing stops.

The group's committed offset says what Redis acknowledged. Redis says itself how far it has come
(`imgclust:view`): where it has come less far than the group, it lost data (it was emptied, or restored from
an older dump), and the view reads again from there. docs/decisions/0052 has the reasoning.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from worker.errors import WorkerError
from worker.kafka.topics import delete_retention
from worker.messages.formats import JSON_TAGS, TagFormat
from worker.telemetry import log as logs
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics
from worker.view.client import RedisTrouble, connect
from worker.view.records import TagRecord, read_record
from worker.view.state import Batch, Partition
from worker.view.store import Applied, Reached, Span, TagsView
from worker.view.sweep import Offsets, Rebuild, Sweeper

__all__ = ["Applied", "RedisTrouble", "TagRecord", "TagsView", "ViewConsumer", "connect", "read_record"]

log = logs.get(__name__)

BATCH = 500  # records per write: two round trips, 10–20 ms of work
POLL_SECONDS = 0.1  # a record waits at most so long for others to be written with
CHECK_SECONDS = 5.0  # so often the view looks whether Redis still has everything
EDGES_SECONDS = 60.0  # so often it asks whether it is at the topic's end
LAG_SECONDS = 1.0
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # between attempts while Redis is in trouble
KAFKA_TIMEOUT = 5.0  # of one question to a broker
LOST = "Redis does not have all that was written"
OUTDATED = "deletions may have been compacted away unread"
SHORT_AWAY = 2 * EDGES_SECONDS  # less is never too long, whatever the topic's own is
client_log = logging.getLogger("worker.kafka")


class ViewConsumer:
    """Keeps a Redis view of the tags topic.

    Args:
        kafka: librdkafka properties: servers, security, `group.protocol`; what delivery needs is set here.
        topic: the tags topic.
        group: the view's own group, `<group of the tagger>.view`.
        view: the Redis side.
        metrics, health: what to tell; the loop beats as "view".
        delete_retention: seconds; by default what the topic has as `delete.retention.ms`. A view that was
            away for longer may have missed deletions for ever, and reads the topic again from its start.
        clock: seconds, steady.
        now: seconds since the epoch.
        tags: what the topic's records are written in.
    """

    def __init__(
        self,
        kafka: Mapping[str, Any],
        topic: str,
        group: str,
        view: TagsView,
        *,
        metrics: Metrics,
        health: Health | None = None,
        delete_retention: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        tags: TagFormat = JSON_TAGS,
    ) -> None:
        self._kafka = dict(kafka)
        self._config = {
            # at 300 bytes a tag, 500 waiting records are 150 kB: the rest may stay on the broker
            "queued.min.messages": 2000,
            **kafka,
            "error_cb": self._on_error,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",  # compacted: its start is all there is to know
        }
        self._topic = topic
        self._view = view
        self._tags = tags
        self._metrics = metrics
        self._stage = metrics.stages["view"]
        self._health = health
        self._delete_retention = delete_retention
        self._clock = clock
        self._now = now
        self._owned: dict[int, Partition] = {}
        self._batch = Batch()
        self._rebuild_asked = threading.Event()
        self._failures = 0
        self._retry_at: float | None = None  # set while Redis is in trouble
        self._trouble_since = 0.0
        self._next_check = self._next_edges = self._next_lag = 0.0
        self._sweeper = Sweeper(view.client, view.keys, clock)
        self._consumer: Any = None

    def rebuild(self) -> None:
        """Read the topic again from its start, as far as this view owns it; may be called from any thread."""
        self._rebuild_asked.set()

    def run(self, stop: threading.Event) -> None:
        """Follow the topic until `stop` is set.

        Raises:
            WorkerError: Kafka's client cannot go on (a fatal error); a new process can.
        """
        self._consumer = Consumer(self._config, logger=client_log)
        try:
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )
            while not stop.is_set():
                self._turn(stop)
            if self._health is not None:
                self._health.forget("view")  # after an error it stays, and the process is found dead
        except Exception:
            log.exception("the view has stopped; the process needs a restart")
            raise
        finally:
            self._consumer.close()

    # --- the loop ----------------------------------------------------------------------------------------

    def _turn(self, stop: threading.Event) -> None:
        if self._health is not None:
            self._health.beat("view")
        try:
            self._pause(self._retry_at is not None or len(self._batch.records) >= BATCH)
            self._take(self._consumer.consume(BATCH, self._patience()))
            if self._retry_at is None or self._clock() >= self._retry_at:
                self._write()
                self._metrics.view_swept.inc(self._sweeper.step())
            self._tell_lag()
        except RedisTrouble as error:
            self._wait(error)
        except KafkaException as error:
            self._kafka_failed(error)
            stop.wait(POLL_SECONDS)

    def _patience(self) -> float:
        """How long to wait for records: not at all with some at hand, not beyond the next attempt."""
        if self._retry_at is not None:
            return max(0.0, min(POLL_SECONDS, self._retry_at - self._clock()))
        return 0.0 if self._batch.ends else POLL_SECONDS

    def _pause(self, wanted: bool) -> None:
        """What cannot be written is not fetched either; the group hears of us all the same."""
        changed = [p for p, state in self._owned.items() if state.paused is not wanted]
        if changed:
            positions = [TopicPartition(self._topic, p) for p in changed]
            (self._consumer.pause if wanted else self._consumer.resume)(positions)
            for partition in changed:
                self._owned[partition].paused = wanted

    def _wait(self, error: RedisTrouble) -> None:
        if self._retry_at is None:
            self._trouble_since = self._clock()
        self._failures += 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(self._failures - 1, 16))
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads attempts, keeps no secret
        self._retry_at = self._clock() + delay
        self._next_check = 0.0
        self._metrics.view_errors[error.kind].inc()
        self._metrics.view_redis_up.set(0)
        log.warning("the view waits for Redis", kind=error.kind, reason=str(error), failures=self._failures)

    def _recovered(self) -> None:
        if self._retry_at is not None:
            log.info("Redis takes the view again", failures=self._failures)
        self._failures, self._retry_at = 0, None
        self._metrics.view_redis_up.set(1)

    def _tell_lag(self) -> None:
        if self._clock() < self._next_lag:
            return
        self._next_lag = self._clock() + LAG_SECONDS
        waiting = 0
        for partition, high in self._ends().items():
            state = self._owned[partition]
            if high >= 0 and state.next is not None:
                behind = max(0, high - state.next)
                waiting += behind
                self._metrics.set_view_lag(partition, behind)
        oldest = min((record.timestamp for record in self._batch.records), default=None)
        age = 0.0 if oldest is None else max(0.0, self._now() - oldest / 1000)
        if self._retry_at is not None and waiting:
            age = max(age, self._clock() - self._trouble_since)
        self._metrics.view_lag_seconds.set(age)

    def _ends(self) -> dict[int, int]:
        """Where the owned partitions end; below 0 while that is not known."""
        if self._retry_at is not None:
            return self._edges(self._owned, OFFSET_END)  # nothing is fetched, so nothing else would tell
        cached = {}
        for partition in self._owned:
            position = TopicPartition(self._topic, partition)
            cached[partition] = int(self._consumer.get_watermark_offsets(position, cached=True)[1])
        return cached

    # --- ownership ---------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        for position in partitions:
            self._owned[position.partition] = Partition()
        log.info("the view owns partitions", added=[p.partition for p in partitions], all=sorted(self._owned))

    def _on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        gone = {position.partition for position in partitions}
        for partition in gone:
            self._owned.pop(partition, None)
            self._metrics.set_view_lag(partition, None)
        self._drop(gone)
        log.info("the view gave up partitions", gone=sorted(gone), all=sorted(self._owned))

    def _drop(self, partitions: Collection[int]) -> None:
        if dropped := self._batch.drop(partitions):
            self._stage.leave(dropped, "dropped")

    # --- reading -----------------------------------------------------------------------------------------

    def _take(self, messages: list[Message]) -> None:
        before = len(self._batch.records)
        for message in messages:
            error, partition, offset = message.error(), message.partition(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                self._kafka_failed(KafkaException(error))
            elif partition not in self._owned or self._owned[partition].next is None or offset is None:
                pass  # revoked while it was on its way; or it begins elsewhere, and is read again from there
            elif error is not None:
                self._batch.passed(partition, offset)  # beyond the marks that transactions leave, too
            else:
                self._read(message, partition, offset)
        if added := len(self._batch.records) - before:
            self._stage.enter(added)

    def _read(self, message: Message, partition: int, offset: int) -> None:
        timestamp = message.timestamp()[1]
        self._batch.passed(partition, offset + 1, timestamp)
        try:
            record = read_record(message.key(), message.value(), partition, offset, timestamp, self._tags)
        except ValueError as error:
            self._batch.malformed.append((partition, offset))
            log.warning("not a tag, skipped", partition=partition, offset=offset, reason=str(error))
        else:
            self._batch.records.append(record)

    def _on_error(self, error: KafkaError) -> None:
        self._kafka_failed(KafkaException(error))

    def _kafka_failed(self, error: KafkaException) -> None:
        cause = error.args[0]
        if cause.fatal():
            raise WorkerError(
                f"Kafka, reading {self._topic}: {cause.str()}; the view cannot go on"
            ) from error
        log.warning("the view's Kafka client", error=cause.str(), code=cause.name())

    # --- writing -----------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Bring what was read to Redis, then commit it; now and then, look whether Redis has the rest."""
        if self._rebuild_asked.is_set() and self._owned:
            self._rewind(dict.fromkeys(self._owned, Reached()), "asked for")
            self._rebuild_asked.clear()
        self._begin([partition for partition, state in self._owned.items() if state.next is None])
        self._rewind(
            {p: Reached() for p, end in self._batch.ends.items() if self._outdated(p, end)}, OUTDATED
        )
        if self._batch.ends:
            self._apply()
        if self._clock() >= self._next_check:
            self._refresh()
        self._commit()

    def _apply(self) -> None:
        batch, began = self._batch, self._clock()
        spans, now = {}, int(self._now() * 1000)
        for partition, end in batch.ends.items():
            state = self._owned[partition]
            assert state.next is not None
            state.at = max(state.at, min(batch.newest[partition], now))
            spans[partition] = Span(state.next, max(state.next, end), state.at)
        applied = self._view.apply(batch.records, spans)
        self._batch = Batch()
        for partition, span in spans.items():
            self._owned[partition].next = span.end
        self._remember(batch)
        self._count(applied, batch, self._clock() - began)
        self._recovered()
        self._go_back(applied.reached)

    def _remember(self, batch: Batch) -> None:
        """Note what is in the partitions that are being read from their start."""
        for partition in batch.ends:
            state = self._owned[partition]
            if (rebuild := state.rebuild) is None or state.next is None:
                continue
            for record in batch.records:
                if record.partition == partition:
                    rebuild.seen.add(record.offset)
            if state.next >= rebuild.goal:
                self._sweeper.expect(partition, rebuild)
                state.rebuild = None

    def _count(self, applied: Applied, batch: Batch, seconds: float) -> None:
        self._metrics.view_records["applied"].inc(applied.written)
        self._metrics.view_records["stale"].inc(applied.stale)
        self._metrics.view_records["malformed"].inc(applied.malformed + len(batch.malformed))
        self._stage.leave(len(batch.records) - applied.malformed, "ok", seconds)
        self._stage.leave(applied.malformed, "dropped")

    def _begin(self, partitions: list[int]) -> None:
        """Learn where new partitions stand: what the group committed, and what Redis really has."""
        if not partitions:
            return
        reached = self._view.reached(partitions)
        asked = [TopicPartition(self._topic, p) for p in partitions]
        committed = self._consumer.committed(asked, timeout=KAFKA_TIMEOUT)
        # Asked last: whatever has been committed by then lies within them, by whom and however long ago. The
        # other way round, a process that was frozen in between took its successor's work for a new topic.
        behind, ends = {}, self._edges(partitions, OFFSET_END)
        for position in committed:
            if position.error is not None:
                raise KafkaException(position.error)
            partition = position.partition
            state, has = self._owned[partition], reached[partition]
            state.committed = position.offset if position.offset >= 0 else None
            if state.committed is None:
                behind[partition] = Reached()
            elif state.committed > ends[partition]:
                self._clear(partition)
                behind[partition] = Reached()
            elif has.offset < state.committed:
                behind[partition] = has
            else:
                self._consumer.seek(TopicPartition(self._topic, partition, state.committed))
                state.next, state.at = state.committed, has.at
        self._rewind(behind, LOST)

    def _refresh(self) -> None:
        """Does Redis still have everything, and are we at the topic's end?"""
        self._next_check = self._clock() + CHECK_SECONDS
        if self._clock() >= self._next_edges:
            self._next_edges = self._clock() + EDGES_SECONDS
            now = int(self._now() * 1000)
            for partition, end in self._edges(self._owned, OFFSET_END).items():
                state = self._owned[partition]
                if state.next is not None and end <= state.next:
                    state.at = max(state.at, now)
        spans = {p: Span(s.next, s.next, s.at) for p, s in self._owned.items() if s.next is not None}
        if spans:
            reached = self._view.apply([], spans).reached
        else:
            reached = {}
            self._view.reached([])  # whether Redis is there is told in any case
        self._recovered()
        self._go_back(reached)

    def _go_back(self, reached: Mapping[int, int]) -> None:
        """Read again what Redis does not have, though it was written."""
        if any(offset < (self._owned[partition].next or 0) for partition, offset in reached.items()):
            stored = self._view.reached(list(self._owned))  # what one partition lost, others may have, too
            behind = {p: at for p, at in stored.items() if at.offset < (self._owned[p].next or 0)}
            self._rewind(behind, LOST)

    def _outdated(self, partition: int, end: int) -> bool:
        """Whether deletions before `end` may have been compacted away before they were read."""
        state = self._owned[partition]
        age = self._now() - state.at / 1000
        if end <= (state.next or 0) or age <= SHORT_AWAY:
            return False
        if self._delete_retention is None:
            self._delete_retention = delete_retention(self._kafka, self._topic)
        return age > self._delete_retention

    def _edges(self, partitions: Collection[int], which: int) -> dict[int, int]:
        """Where partitions begin (OFFSET_BEGINNING) or end (OFFSET_END).

        One question for all: behind a waiting fetch each takes half a second, and `get_watermark_offsets`
        would ask once for each. A timestamp of -1 or -2 means the same edges as an offset of -1 or -2.
        """
        asked = [TopicPartition(self._topic, partition, which) for partition in partitions]
        edges = {}
        for found in self._consumer.offsets_for_times(asked, timeout=KAFKA_TIMEOUT) if asked else ():
            if found.error is not None:
                raise KafkaException(found.error)
            edges[found.partition] = int(found.offset)
        return edges

    def _rewind(self, starts: Mapping[int, Reached], reason: str) -> None:
        """Read partitions again from these offsets; -1: from the start of the topic.

        The order makes it safe to die anywhere: first the group forgets that it was further, then Redis
        learns where it stands, and only then records follow.
        """
        if not starts:
            return
        self._drop(starts.keys())
        begins, now = {}, int(self._now() * 1000)
        lows, highs = self._edges(starts, OFFSET_BEGINNING), self._edges(starts, OFFSET_END)
        for partition, start in starts.items():
            low, high = lows[partition], highs[partition]
            begins[partition] = Reached(low, now) if start.offset < low else start
            # an emptied Redis holds nothing that the topic does not
            again = start.offset < low and reason != LOST
            self._owned[partition].rebuild = Rebuild(high, Offsets(low)) if again else None
        back = {str(p): b.offset for p, b in begins.items() if (self._owned[p].committed or 0) > b.offset}
        if back:
            self._metrics.view_rebuilds.inc()
            log.warning("the view reads tags again", reason=reason, from_offsets=back)
        positions = [TopicPartition(self._topic, p, begin.offset) for p, begin in begins.items()]
        self._consumer.commit(offsets=positions, asynchronous=False)
        self._view.restart(begins)
        for position in positions:
            self._consumer.seek(position)
            state, begin = self._owned[position.partition], begins[position.partition]
            state.next = state.committed = begin.offset
            state.at = begin.at

    def _commit(self) -> None:
        positions = [
            TopicPartition(self._topic, partition, state.next)
            for partition, state in self._owned.items()
            if state.next is not None and state.next != state.committed
        ]
        if positions:
            self._consumer.commit(offsets=positions, asynchronous=False)
            for position in positions:
                self._owned[position.partition].committed = position.offset

    # --- repairs -----------------------------------------------------------------------------------------

    def _clear(self, partition: int) -> None:
        """The topic was made anew: its offsets begin again, and would all be refused as old."""
        log.error("the tags topic was made anew; its tags are removed from Redis", partition=partition)
        for removed in self._sweeper.clear(partition):
            self._metrics.view_swept.inc(removed)
            if self._health is not None:
                self._health.beat("view")
