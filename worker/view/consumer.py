"""Tags topic → Redis: a consumer group of its own, which Redis or Kafka being away delays and nothing stops.

The group's committed offset says what Redis acknowledged. Redis says itself how far it has come
(`imgclust:view`): where it has come less far than the group, it lost data (it was emptied, or restored from
an older dump), and the view reads again from there. docs/decisions/0052 has the reasoning.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.errors import StartError, WorkerError
from worker.kafka.assignment import OwnedPartitions
from worker.kafka.reading import NO_RIGHT, client_log
from worker.kafka.retention import DeleteRetention
from worker.kafka.topic_ids import TopicIds
from worker.messages.formats import JSON_TAGS, TagFormat
from worker.telemetry import log as logs
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics
from worker.view.backoff import Backoff
from worker.view.client import RedisTrouble
from worker.view.commits import Commits
from worker.view.lag import Lag
from worker.view.records import read_record
from worker.view.recovery import REQUESTED, Recovery
from worker.view.state import Batch, ViewPartition
from worker.view.store import Applied, Reached, Span, TagsView
from worker.view.sweep import Sweeper

log = logs.get(__name__)

BATCH = 500  # records per write: two round trips, 10–20 ms of work
POLL_SECONDS = 0.1  # a record waits at most so long for others to be written with
CHECK_SECONDS = 5.0  # how often the view looks whether Redis still has everything
ASK_AGAIN = 1.0  # seconds until brokers that did not answer are asked again; nothing else waits for it
COMMIT_SECONDS = 1.0  # a commit that takes longer waits for Kafka


class ViewConsumer:
    """Keeps a Redis view of the tags topic. No call of it waits for Kafka longer than a second.

    Args:
        config: see `client_config.view_config`.
        topic: the tags topic.
        view: the Redis side.
        metrics, health: where it is reported; the loop beats as "view".
        retention: how long the topic keeps deletions.
        ids: of the topic.
        clock: seconds, steady.
        now: seconds since the epoch.
        tags: what the topic's records are written in.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        view: TagsView,
        *,
        metrics: Metrics,
        retention: DeleteRetention,
        ids: TopicIds,
        health: Health | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        tags: TagFormat = JSON_TAGS,
    ) -> None:
        self._topic = topic
        self._view = view
        self._tags = tags
        self._metrics = metrics
        self._stage = metrics.stages["view"]
        self._health = health or Health()
        self._clock = clock
        self._now = now
        self._owned = OwnedPartitions(ViewPartition)
        self._batch = Batch()
        self._rebuild_asked = threading.Event()
        self._backoff = Backoff(metrics, clock)
        self._unanswered: dict[str, float] = {}  # what the brokers did not answer → when to ask again
        self._next_check = 0.0
        self._sweeper = Sweeper(view.client, view.keys, clock)
        self._commits = Commits(topic, self._owned, clock)
        self._recovery = Recovery(
            topic, self._owned, self._commits, view, self._sweeper,
            drop=self._drop, retention=retention, ids=ids, metrics=metrics, clock=clock, now=now,
        )  # fmt: skip
        self._lag = Lag(
            topic, self._owned, self._recovery.positions, self._backoff, metrics=metrics, clock=clock, now=now
        )
        self._config = {**config, "error_cb": self._on_error, "on_commit": self._on_commit}
        self._consumer: Any = None

    def rebuild(self) -> None:
        """Read the topic again from its start, as far as this view owns it; may be called from any thread."""
        self._rebuild_asked.set()

    def run(self, stop: threading.Event) -> None:
        """Follow the topic until `stop` is set.

        Raises:
            StartError: a right is missing; the text says which.
            WorkerError: Kafka's client cannot go on (a fatal error); a new process can.
        """
        self._consumer = Consumer(self._config, logger=client_log)
        self._recovery.connect(self._consumer)
        try:
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )
            while not stop.is_set():
                self._run_once()
            self._commits.finish(self._consumer, COMMIT_SECONDS)
            self._health.forget("view")  # after an error it stays, and the process is found dead
        except Exception:
            log.exception("the view has stopped; the process needs a restart")
            raise
        finally:
            self._consumer.close()

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────

    def _run_once(self) -> None:
        self._health.beat("view", self._waits_for)
        try:
            self._pause(self._backoff.waiting or len(self._batch.records) >= BATCH)
            self._take(self._consumer.consume(BATCH, self._patience()))
            if not self._backoff.left:
                self._ask("position", self._position)
                self._write()
                self._metrics.view_swept.inc(self._sweeper.step())
            self._ask("lag", lambda: self._lag.report(self._consumer, self._batch))
        except RedisTrouble as error:
            self._backoff.failed(error)
            self._next_check = 0.0

    def _ask(self, what: str, step: Callable[[], None]) -> bool:
        """Do something that asks the brokers; where they do not answer, it is left out for a while.

        Returns:
            Whether it was done.
        """
        if self._clock() < self._unanswered.get(what, -math.inf):
            return False
        try:
            step()
        except KafkaException as error:
            self._unanswered[what] = self._clock() + ASK_AGAIN
            self._kafka_failed(error)
            return False
        self._unanswered.pop(what, None)
        return True

    @property
    def _waits_for(self) -> str:
        if self._unanswered or self._commits.waiting > COMMIT_SECONDS:
            return "Kafka"
        return "Redis" if self._backoff.waiting else ""

    def _patience(self) -> float:
        """How long to wait for records: not at all with some at hand, not beyond the next attempt."""
        if self._backoff.waiting:
            return min(POLL_SECONDS, self._backoff.left)
        return 0.0 if self._batch.ends and not self._unanswered else POLL_SECONDS

    def _pause(self, wanted: bool) -> None:
        """What cannot be written is not fetched either; the group hears of us all the same."""
        changed = [p for p, state in self._owned.items() if state.paused is not wanted]
        if changed:
            positions = [TopicPartition(self._topic, p) for p in changed]
            (self._consumer.pause if wanted else self._consumer.resume)(positions)
            for partition in changed:
                self._owned[partition].paused = wanted

    # ── ownership ────────────────────────────────────────────────────────────────────────────────────────

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        for position in partitions:
            self._owned.begin(position.partition)
        self._recovery.refresh_topic()
        log.info("the view owns partitions", added=[p.partition for p in partitions], all=sorted(self._owned))

    def _on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        gone = {position.partition for position in partitions} & self._owned.keys()
        for partition in gone:
            self._owned.end(partition)
            self._metrics.set_view_lag(partition, None)
        self._drop(gone)
        log.info("the view gave up partitions", gone=sorted(gone), all=sorted(self._owned))

    def _drop(self, partitions: Collection[int]) -> None:
        if dropped := self._batch.drop(partitions):
            self._stage.leave(dropped, "dropped")

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, messages: list[Message]) -> None:
        before = len(self._batch.records)
        for message in messages:
            error, partition, offset = message.error(), message.partition(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                self._kafka_failed(KafkaException(error))
            elif partition is None or offset is None or not self._reads(partition):
                pass  # revoked while it was on its way; or it begins elsewhere, and is read again from there
            elif error is not None:
                self._batch.passed(partition, offset)  # beyond the marks that transactions leave, too
            else:
                self._read(message, partition, offset)
        if added := len(self._batch.records) - before:
            self._stage.enter(added)

    def _reads(self, partition: int) -> bool:
        state = self._owned.get(partition)
        return state is not None and state.next is not None

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

    def _on_commit(self, error: KafkaError | None, positions: list[TopicPartition]) -> None:
        self._commits.answered(error, positions)

    def _on_error(self, error: KafkaError) -> None:
        self._kafka_failed(KafkaException(error))

    def _kafka_failed(self, error: KafkaException) -> None:
        cause = error.args[0]
        if cause.code() in NO_RIGHT:
            raise StartError(
                f"Kafka refuses to let the view read {self._topic!r}: {cause.str()}; "
                "grant Read on the topic and on the view's group"
            ) from error
        if cause.fatal():
            raise WorkerError(
                f"Kafka, reading {self._topic}: {cause.str()}; the view cannot go on"
            ) from error
        log.warning("the view's Kafka client", error=cause.str(), code=cause.name())

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────

    def _position(self) -> None:
        """See to partitions that do not stand yet, or have to be read again."""
        if self._rebuild_asked.is_set() and self._owned:
            self._recovery.rewind(dict.fromkeys(self._owned, Reached()), REQUESTED)
            self._rebuild_asked.clear()
        self._recovery.follow_topic()
        self._recovery.begin()
        self._recovery.proceed()

    def _write(self) -> None:
        """Bring what was read to Redis, then commit it; now and then, look whether Redis has the rest."""
        if self._batch.ends and self._ask("outdated", self._leave_out_outdated) and self._batch.ends:
            reached = self._apply()
            self._ask("compare", lambda: self._recovery.compare(reached))
        if self._clock() >= self._next_check and self._ask("look", self._recovery.look):
            self._next_check = self._clock() + CHECK_SECONDS
            self._backoff.succeeded()
        self._ask("commit", lambda: self._commits.step(self._consumer))

    def _leave_out_outdated(self) -> None:
        self._recovery.read_outdated_again(self._batch.ends)

    def _apply(self) -> Mapping[int, int]:
        """Write what was read; returns how far Redis is in each partition."""
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
        self._recovery.note(batch)
        self._count(applied, batch, self._clock() - began)
        self._backoff.succeeded()
        return applied.reached

    def _count(self, applied: Applied, batch: Batch, seconds: float) -> None:
        self._metrics.view_records["applied"].inc(applied.written)
        self._metrics.view_records["stale"].inc(applied.stale)
        self._metrics.view_records["malformed"].inc(applied.malformed + len(batch.malformed))
        self._stage.leave(len(batch.records) - applied.malformed, "ok", seconds)
        self._stage.leave(applied.malformed, "dropped")
