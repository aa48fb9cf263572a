"""Kafka → records, and the table of owned partitions. The consumer half of Kafka's types.

All of it runs on the one thread that owns Kafka: a poll in one thread makes other calls wait in another.

Every assignment of a partition gets a new epoch. Work carries (partition, epoch, offset), and what comes back
with an old epoch is dropped: another member may own the partition by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
)
from confluent_kafka import TopicPartition as KafkaPartition

from worker.errors import StartError
from worker.kafka.assignment import (
    POSITION_TIMEOUT_MAX,
    BegunPartition,
    OwnedPartition,
    OwnedPartitions,
    Snapshot,
    is_member,
)
from worker.kafka.failpoints import reach
from worker.kafka.offsets import mark_of
from worker.kafka.positioning import Positioning
from worker.kafka.reading import NO_RIGHT, client_log, headers_of
from worker.kafka.retry_changelog import RetryChangelog
from worker.kafka.topic_ids import TopicIds
from worker.messages.headers import ReplayHeaders, read_traceparent
from worker.messages.record import Record
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.telemetry.window import Lateness

log = logs.get(__name__)

_MAX_FETCH = 500  # records taken from librdkafka's queue in one round of the loop
# A process that was frozen may have lost its partitions without knowing. Group metadata that was fetched
# later than this after the last look at the group is not trusted: it could be that of a new membership, which
# owns other partitions. Sessions last 6 s or longer (group.min.session.timeout.ms), so a freeze that is
# shorter than this ends none.
_FRESH = 3.0


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
        retries: RetryChangelog,
        ids: TopicIds,
        on_begun: Callable[[BegunPartition], None],
        on_leaving: Callable[[set[int], bool], None],
    ) -> None:
        """Join the group.

        Args:
            config: see `consumer_config`.
            start: "earliest" or "latest", for partitions without a committed offset.
            clock: monotonic seconds.
            wall_ms: milliseconds since the epoch, for records without a timestamp.
            retries: restores the pending retries of a partition before its first record is read.
            ids: of the uploads' and the retries' topic.
            on_begun: called when a partition's position is known, before its first record.
            on_leaving: called with partitions that are given up, and whether they are lost already. When they
                are not, what is done until it returns may still be committed.
        """
        self._topic = topic
        self._clock = clock
        self._wall_ms = wall_ms
        self._metrics = metrics
        self._retries = retries
        self._ids = ids
        self._on_leaving = on_leaving
        self._owned = OwnedPartitions(lambda epoch: OwnedPartition(epoch, Lateness(wall_ms())))
        self._closing = False
        self._looked_at = clock()  # at the group: the last poll or callback began
        self._fatal: KafkaError | None = None
        self._commits = 0  # that are on their way
        self._consumer = Consumer(
            {**config, "on_commit": self._on_commit, "error_cb": self._on_error}, logger=client_log
        )
        self._positioning = Positioning(
            self._consumer, topic, self._owned, start=start, retries=retries, ids=ids, on_begun=on_begun,
            clock=clock, wall_ms=wall_ms, metrics=metrics,
        )  # fmt: skip
        self._consumer.subscribe(
            [topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────

    def poll(self, limit: int, timeout: float) -> list[Record]:
        """Up to `limit` new records; waits at most `timeout` seconds for the first one.

        Must be called again and again, also while paused, or the group takes the partitions away.
        """
        messages: list[Message] = []
        self._look()
        first = self._consumer.poll(timeout)
        if first is not None:
            messages.append(first)
            if limit > 1:
                messages += self._consumer.consume(min(limit, _MAX_FETCH) - 1, 0)
        else:
            self._positioning.queue_was_empty()
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        if self._ids.poll():
            self._begin_anew(self._positioning.made_anew())
        records = []
        for message in messages:
            record = self._accept(message)
            if record is not None:
                records.append(record)
        if any(owned.offsets is None or owned.held_back is not None for owned in self._owned.values()):
            self._positioning.attend()
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
        offsets = owned.offsets
        if offsets is None or owned.held_back is not None:
            return None  # it is read again from the position
        if not offsets.fits(offset):
            self._positioning.hold_back(partition, owned, offset)
            return None
        self._positioning.heard(owned, self._looked_at)
        if not offsets.take(offset):
            return None
        kind, timestamp = message.timestamp()
        owned.lateness.read = at = self._wall_ms() if kind == TIMESTAMP_NOT_AVAILABLE else timestamp
        key, value = message.key(), message.value()
        if not message.headers():
            return Record(partition, owned.epoch, offset, key, value, at)
        headers = headers_of(message)
        replay = ReplayHeaders.read(headers)
        if replay is not None:
            at = replay.source.timestamp
        return Record(partition, owned.epoch, offset, key, value, at, read_traceparent(headers), replay)

    def _read_error(self, error: KafkaError, partition: int | None, owned: OwnedPartition | None) -> None:
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET and owned is not None and partition is not None:
            if owned.offsets is not None:  # retention overtook it while it was read, or it lost its tail
                self._begin_anew({partition})
                self._ids.refresh()
            self._owned[partition].reset = True
        elif code in NO_RIGHT:
            raise StartError(
                f"Kafka refuses to let this worker read {self._topic!r}: {error.str()}; "
                "grant Read on the topic and on the group"
            )
        elif error.fatal():
            raise KafkaException(error)
        else:
            log.warning("reading failed for now", topic=self._topic, partition=partition, error=error.str())

    def _look(self) -> None:
        """The group is looked at now. After a sleep, silence counts from here on: first it has to turn out
        which partitions are ours still, and to assign one anew would hide that it is lost (see `go_to`)."""
        now = self._clock()
        if now - self._looked_at > _FRESH:
            self._positioning.heard_all()
        self._looked_at = now

    def _is_fresh(self) -> bool:
        """Whether the group was looked at a moment ago: no membership can have ended since."""
        return self._clock() - self._looked_at <= _FRESH

    # ── ownership ────────────────────────────────────────────────────────────────────────────────────────

    def owns(self, partition: int, epoch: int) -> bool:
        return self._owned.of_epoch(partition, epoch) is not None

    def position(self, partition: int) -> int:
        """The lowest offset that is not done; 0 while that is not known."""
        owned = self._owned.get(partition)
        return owned.offsets.position if owned is not None and owned.offsets is not None else 0

    @property
    def partitions(self) -> list[int]:
        return sorted(self._owned)

    @property
    def waiting(self) -> dict[int, str]:
        """Owned partitions that have not begun and are not being restored either, and why."""
        return self._positioning.waiting()

    def _assigned(self, _: Consumer, partitions: list[KafkaPartition]) -> None:
        self._metrics.rebalances.inc()
        # `_begin` learns the position. Until then any will do, as nothing is read; left to itself librdkafka
        # would look for a committed offset, and complain of its lack when reading goes on. It must be one
        # that needs no question to the broker: the answer to that for the log's end came after the seek,
        # measured, and what is in between was passed over.
        # Paused before, or most of them are read from 0 for a moment, and where retention has cut the log,
        # that is an error (measured: 31 to 56 of 60). Only partitions that the client has a place for can be
        # paused; to ask for positions makes it.
        here = [KafkaPartition(self._topic, p.partition) for p in partitions]
        self._consumer.position(here)
        self._consumer.pause(here)
        self._consumer.incremental_assign([KafkaPartition(self._topic, p.partition, 0) for p in partitions])
        if self._closing:
            return  # they are taken back at once
        for p in partitions:
            self._positioning.begin_again(p.partition)
        self._ids.refresh()
        self._looked_at = self._clock()
        log.info("partitions assigned", new=[p.partition for p in partitions], owned=self.partitions)

    def _begin_anew(self, partitions: set[int]) -> None:
        """Log or topic is not what their offsets say: what is in flight ends, the rest is asked anew."""
        if not partitions:
            return
        self._on_leaving(partitions, False)
        for partition in partitions:
            self._positioning.remember(partition, self._owned[partition])
            self._retries.drop(partition)
            self._positioning.begin_again(partition)

    def _revoked(self, _: Consumer, partitions: list[KafkaPartition]) -> None:
        self._leave(partitions, lost=False)

    def _lost(self, _: Consumer, partitions: list[KafkaPartition]) -> None:
        self._leave(partitions, lost=True)  # somebody else owns them already: nothing may be committed

    def _leave(self, named: list[KafkaPartition], *, lost: bool) -> None:
        # a revocation may name partitions that are not ours (confluent-kafka-python #1551)
        leaving = {p.partition for p in named if p.partition in self._owned}
        self._looked_at = self._clock()
        if not lost:
            reach("in-revoke")
        # Assigned anew, a partition that was lost is reported as one that is given up (see `Positioning`).
        # What is to be committed was, before the client closes. Then it may answer no more: seen twice under
        # faults, a worker that had been given a partition in that moment never came back from here.
        over = lost or self._closing or not self._positioning.is_membership_known
        self._on_leaving(leaving, over)
        for partition in leaving:
            self._positioning.remember(partition, self._owned[partition])
            self._owned.end(partition)
            self._retries.drop(partition)
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
        return self._positioning.paused

    def pause(self) -> None:
        """Stop reading; `poll` still has to be called."""
        self._positioning.pause()

    def resume(self) -> None:
        self._positioning.resume()

    # ── committing ───────────────────────────────────────────────────────────────────────────────────────

    def done(self, record: Record) -> None:
        """`record` has ended: what is committed next may say so."""
        if record.handed_over:
            return
        owned = self._owned.of_epoch(record.partition, record.epoch)
        if owned is not None and owned.offsets is not None:
            owned.offsets.done(record.offset)

    def encoding(self, partition: int) -> None:
        """Pictures of the partition are encoded from now on: the next commit says so."""
        owned = self._owned.get(partition)
        if owned is not None and owned.offsets is not None:
            owned.offsets.encoding()

    def is_encoding_known(self, partition: int) -> bool:
        """Whether the next owner would learn of it."""
        owned = self._owned.get(partition)
        return owned is not None and owned.offsets is not None and owned.offsets.is_encoding_known

    @property
    def uncommitted(self) -> bool:
        """Whether something is done that no commit covers yet."""
        return any(o.offsets is not None and o.offsets.uncommitted for o in self._owned.values())

    def _states(
        self, mark: str = "", also: Set[int] = frozenset(), leaving: Set[int] = frozenset()
    ) -> tuple[tuple[int, int, tuple[int, str]], ...]:
        named = also | leaving
        return tuple(
            (partition, owned.epoch, self._state(owned, mark, leaving=partition in leaving))
            for partition, owned in self._owned.items()
            if owned.offsets is not None and (partition in named or owned.offsets.uncommitted)
        )

    def _state(self, owned: OwnedPartition, mark: str, *, leaving: bool) -> tuple[int, str]:
        assert owned.offsets is not None
        return owned.offsets.state(mark, leaving=leaving, topics=self._positioning.topics_now(owned))

    def snapshot(self, mark: str, also: Set[int], leaving: Set[int]) -> Snapshot | None:
        """What a transaction commits: partitions with something new, those of `also`, those that are left.

        The metadata is taken first, so that a freeze in between leaves an old membership with an old table,
        which the broker refuses. A new membership with an old table is the one thing that it would take, and
        somebody else's offsets would be overwritten.

        Returns:
            None when it is not known that the table is of this membership, or this process is no member:
            poll first.
        """
        member = self._consumer.consumer_group_metadata()
        if not (self._is_fresh() and self._positioning.is_membership_known and is_member(member)):
            return None
        return Snapshot(self._topic, member, self._states(mark, also, leaving))

    def committed(self, snapshot: Snapshot) -> None:
        """The broker has `snapshot`."""
        for partition, epoch, state in snapshot.states:
            owned = self._owned.of_epoch(partition, epoch)
            if owned is not None and owned.offsets is not None:
                owned.offsets.committed(state)

    def not_committed(self, snapshot: Snapshot) -> None:
        """It does not; `uncommitted` is true again."""
        for partition, epoch, _ in snapshot.states:
            owned = self._owned.of_epoch(partition, epoch)
            if owned is not None and owned.offsets is not None:
                owned.offsets.not_committed()

    def wrote(self, snapshot: Snapshot, mark: str) -> bool | None:
        """Whether the transaction with `mark`, whose end was not seen, was committed. Asks the broker.

        A transaction is committed whole or not at all: one partition that is still ours is enough to know.

        Returns:
            None when none of them is ours any more.

        Raises:
            KafkaException: no answer yet.
        """
        for partition, epoch, _ in snapshot.states:
            if self.owns(partition, epoch):
                here = KafkaPartition(self._topic, partition)
                found = self._consumer.committed([here], timeout=POSITION_TIMEOUT_MAX)[0]
                if found.error is not None:
                    raise KafkaException(found.error)
                return mark_of(found.metadata) == mark
        return None

    def commit(self, *, leaving: Set[int] = frozenset()) -> None:
        """Commit what is done outside of any transaction. Never waits, as nobody knows for how long: in a
        revocation the commit leaves before the group is joined again, on the same connection, so the next
        owner finds it.

        Args:
            leaving: partitions that are given up in order.
        """
        states = self._states(leaving=leaving)
        if not states:
            return
        snapshot = Snapshot(self._topic, None, states)
        reach("before-commit")
        try:
            self._consumer.commit(offsets=snapshot.offsets, asynchronous=True)
        except KafkaException as error:
            self._commit_failed([p for p, _, _ in states], error.args[0])
            return
        self._commits += 1
        self.committed(snapshot)
        self._metrics.commits["committed"].inc()

    @property
    def committing(self) -> bool:
        """Whether a commit is on its way; polls bring its answer."""
        return self._commits > 0

    def _on_commit(self, error: KafkaError | None, partitions: list[KafkaPartition]) -> None:
        if any(p.topic != self._topic for p in partitions):  # a note, see `TopicNotes`
            if error is not None:
                self._positioning.note_topics(again=True)
            return
        self._commits = max(0, self._commits - 1)
        if error is not None:
            self._commit_failed([p.partition for p in partitions], error)

    def _commit_failed(self, partitions: Iterable[int], error: KafkaError) -> None:
        # harmless: what was published may be published again, and the next commit says all of it
        self._metrics.commits["failed"].inc()
        log.warning("commit failed; trying again", error=error.str())
        for partition in partitions:
            owned = self._owned.get(partition)
            if owned is not None and owned.offsets is not None:
                owned.offsets.not_committed()

    # ── watching ─────────────────────────────────────────────────────────────────────────────────────────

    def report(self) -> None:
        """Bring the metrics of all owned partitions up to date; look after those that are silent."""
        self._positioning.look_after_silent(self._is_fresh)
        self._positioning.report_waiting()
        self._positioning.note_topics()
        self._metrics.assigned.set(len(self._owned))
        self._metrics.paused.set(len(self._owned) if self.paused else 0)
        shorter = {p for p, owned in self._owned.items() if self._report_one(p, owned)}
        if shorter:  # perhaps the log of another topic
            self._begin_anew(shorter)
            self._ids.refresh()

    def _report_one(self, partition: int, owned: OwnedPartition) -> bool:
        """Whether the partition's log has become shorter."""
        if owned.offsets is None:
            return False
        here = KafkaPartition(self._topic, partition)
        _, high = self._consumer.get_watermark_offsets(here, cached=True)
        if 0 <= high < owned.end:
            return True
        owned.end = max(owned.end, high)
        unread = max(0, high - owned.offsets.next)
        late = owned.lateness.seconds(self._wall_ms(), unread)
        self._metrics.set_lag(partition, unread, owned.offsets.next - owned.offsets.position, late)
        return False

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        else:
            log.warning("Kafka client", error=error.str())

    def close(self) -> None:
        """Leave the group. What is done is committed before (`Delivery.finish`), and not here any more."""
        self._closing = True
        self._consumer.close()
        self._retries.close()
