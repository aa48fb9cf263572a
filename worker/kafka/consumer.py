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
    POSITION_TIMEOUT,
    POSITION_TIMEOUT_MAX,
    BegunPartition,
    OwnedPartition,
    Snapshot,
    is_member,
)
from worker.kafka.failpoints import reach
from worker.kafka.offsets import PartitionOffsets, lives_of, mark_of
from worker.kafka.pending_retries import PendingRetries
from worker.kafka.reading import client_log, traceparent_of
from worker.kafka.retry_changelog import Pending, RetryChangelog
from worker.messages.record import Record
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.telemetry.window import Lateness

log = logs.get(__name__)

_SEEK_RETRY = 0.02
_POSITION_RETRY = 0.3
# A partition that is silent for so long is looked after; where nothing comes of it, less and less often.
_SILENCE, _SILENCE_MAX = 5.0, 300.0
_MAX_FETCH = 500  # records taken from librdkafka's queue in one turn
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
            on_begun: called when a partition's position is known, before its first record.
            on_leaving: called with partitions that are given up, and whether they are lost already. When they
                are not, what is done until it returns may still be committed.
        """
        self._topic = topic
        self._start = start
        self._clock = clock
        self._wall_ms = wall_ms
        self._metrics = metrics
        self._retries = retries
        self._on_begun = on_begun
        self._on_leaving = on_leaving
        self._owned: dict[int, OwnedPartition] = {}
        self._epoch = 0
        self._paused = False
        self._closing = False
        self._looked_at = clock()  # at the group: the last poll or callback began
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
        self._look()
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
        offsets = owned.offsets
        if offsets is None or owned.held_back is not None:
            return None  # it is read again from the position
        if not offsets.fits(offset):
            self._hold_back(partition, owned, offset)
            return None
        owned.heard_at, owned.silence = self._looked_at, _SILENCE
        if not offsets.take(offset):
            return None
        kind, timestamp = message.timestamp()
        owned.lateness.read = self._wall_ms() if kind == TIMESTAMP_NOT_AVAILABLE else timestamp
        return Record(
            partition,
            owned.epoch,
            offset,
            message.key(),
            message.value(),
            owned.lateness.read,
            traceparent_of(message),
        )

    def _read_error(self, error: KafkaError, partition: int | None, owned: OwnedPartition | None) -> None:
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET and owned is not None and partition is not None:
            if owned.offsets is not None:  # retention overtook it while it was read
                self._on_leaving({partition}, False)
                self._own(partition)
            self._owned[partition].reset = True
        elif code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
            raise StartError(f"Kafka refuses to let this worker read {self._topic!r}: {error.str()}")
        elif error.fatal():
            raise KafkaException(error)
        else:
            log.warning("reading failed for now", topic=self._topic, partition=partition, error=error.str())

    # ── where a partition begins ─────────────────────────────────────────────────────────────────────────

    def _ask(self, partition: int, owned: OwnedPartition) -> None:
        """Ask where the last owner ended, and then restore its pending retries.

        Asked here and not in on_assign, because the answer waits for open transactions of the last owner: one
        whose offsets the group had taken may be committed long after it lost the partition, with records for
        the retry topic in it (measured: a broker that was killed in between). With the answer they are over,
        and no other can come, because the group takes no more offsets of that member. So the retries are
        read after it, and never before.
        """
        here = KafkaPartition(self._topic, partition)
        try:
            committed = self._consumer.committed([here], timeout=owned.patience)[0]
            if committed.error is not None:
                raise KafkaException(committed.error)
        except KafkaException as error:
            self._ask_later(partition, owned, error)
            return
        reach("after-committed-read")
        owned.committed = committed
        self._retries.begin(partition, owned.epoch)

    def _ask_later(self, partition: int, owned: OwnedPartition, error: KafkaException) -> None:
        owned.patience = min(2 * owned.patience, POSITION_TIMEOUT_MAX)
        owned.ask_at = self._clock() + _POSITION_RETRY
        log.debug("position not known yet", partition=partition, error=error.args[0].str())

    def _begin(
        self,
        partition: int,
        owned: OwnedPartition,
        committed: KafkaPartition,
        restored: PendingRetries[Pending],
    ) -> None:
        """Read on from where the last owner ended; tried again when that cannot be done just now."""
        low, high = 0, 0
        if owned.reset or committed.offset < 0:
            here = KafkaPartition(self._topic, partition)
            try:
                low, high = self._consumer.get_watermark_offsets(here, timeout=POSITION_TIMEOUT_MAX)
            except KafkaException as error:
                self._ask_later(partition, owned, error)
                return
        known = committed.offset >= 0 and (not owned.reset or low <= committed.offset <= high)
        position = committed.offset
        if committed.offset < 0:
            position = low if self._start == "earliest" else high
        elif not known:
            self._count_lost(partition, committed.offset, low, high)
            position = low
        if not self._go_to(partition, position, nowhere=owned.reset):
            owned.ask_at = self._clock() + _SEEK_RETRY
            return
        if committed.offset < 0:
            log.info("partition begins", partition=partition, offset=position, start=self._start)
        owned.offsets = PartitionOffsets(position, committed.metadata if known else None)
        owned.reset = False
        owned.restored = None
        owned.heard_at, owned.silence = self._clock(), _SILENCE
        self._on_begun(
            BegunPartition(partition, owned.epoch, position, lives_of(committed.metadata), restored)
        )
        self._set_paused(partition, self._paused)

    def _count_lost(self, partition: int, committed: int, low: int, high: int) -> None:
        lost = max(0, low - committed)
        self._metrics.records_lost.inc(lost)
        log.error(
            "committed offset is outside of the log; going on at the log's start",
            partition=partition, committed=committed, log_start=low, log_end=high, records_lost=lost,
        )  # fmt: skip

    def _go_to(self, partition: int, offset: int, *, nowhere: bool = False) -> bool:
        """Let a paused partition read on from `offset`; False when it cannot just now.

        By seek(), unless the partition found `nowhere` to begin, which seek() refuses. To assign it anew
        makes librdkafka forget a loss that it has not told yet: measured, a member that woke up too late then
        heard of a revocation, under a new membership already, and committed over its successor.
        """
        here = KafkaPartition(self._topic, partition, offset)
        if nowhere:
            self._consumer.incremental_unassign([here])
            self._consumer.incremental_assign([here])
            self._set_paused(partition, True)
            return True
        try:
            self._consumer.seek(here)
        except KafkaException as error:  # its reading has not begun yet, or has just failed
            log.debug("cannot seek yet", partition=partition, offset=offset, error=error.args[0].str())
            return False
        return True

    def _set_paused(self, partition: int, paused: bool) -> None:
        # a paused partition stays paused across assignments: say it either way
        here = [KafkaPartition(self._topic, partition)]
        if paused:
            self._consumer.pause(here)
        else:
            self._consumer.resume(here)

    def _hold_back(self, partition: int, owned: OwnedPartition, offset: int) -> None:
        owned.held_back = offset
        self._consumer.pause([KafkaPartition(self._topic, partition)])
        log.warning("partition waits: an upload far behind is not done", partition=partition, offset=offset)

    def _attend(self) -> None:
        """See to partitions without a position, and to those that wait for their commits to catch up."""
        for partition, epoch, restored in self._retries.poll():
            if self.owns(partition, epoch):
                self._owned[partition].restored = restored
        for partition, owned in list(self._owned.items()):
            if owned.offsets is None:
                if self._clock() < owned.ask_at:
                    continue
                if owned.committed is None:
                    self._ask(partition, owned)
                elif owned.restored is not None:
                    self._begin(partition, owned, owned.committed, owned.restored)
            elif (
                owned.held_back is not None
                and owned.offsets.fits(owned.held_back)
                and self._go_to(partition, owned.held_back)
            ):
                owned.held_back = None
                self._set_paused(partition, self._paused)

    def _look(self) -> None:
        """The group is looked at now. After a sleep, silence counts from here on: first it has to turn out
        which partitions are ours still, and to assign one anew would hide that it is lost (see `_go_to`)."""
        now = self._clock()
        if now - self._looked_at > _FRESH:
            for owned in self._owned.values():
                if owned.offsets is not None:
                    owned.heard_at, owned.silence = now, _SILENCE
        self._looked_at = now

    def _look_after_silent(self) -> None:
        """Set a partition going again that has records and brings none.

        Seen with librdkafka 2.16 on a busy machine with a broker that had just started: a partition that was
        assigned and positioned was never fetched, without an error. Asks the broker one question at most.
        """
        now = self._clock()
        if self._paused or now - self._looked_at > _FRESH:
            return
        for partition, owned in self._owned.items():
            if owned.offsets is None or owned.held_back is not None or now - owned.heard_at < owned.silence:
                continue
            again = owned.silence > _SILENCE
            owned.heard_at, owned.silence = now, min(2 * owned.silence, _SILENCE_MAX)
            here = KafkaPartition(self._topic, partition)
            try:
                _, high = self._consumer.get_watermark_offsets(here, timeout=POSITION_TIMEOUT)
            except KafkaException:
                return
            if high > owned.offsets.next and self._clock() - self._looked_at <= _FRESH:
                # what is above may be no record but the end of a producer's transaction: nothing to warn of
                log.info("a silent partition is positioned again", partition=partition, log_end=high)
                self._set_paused(partition, True)
                self._go_to(partition, owned.offsets.next, nowhere=again)
                self._set_paused(partition, self._paused)
            return

    # ── ownership ────────────────────────────────────────────────────────────────────────────────────────

    def owns(self, partition: int, epoch: int) -> bool:
        owned = self._owned.get(partition)
        return owned is not None and owned.epoch == epoch

    def position(self, partition: int) -> int:
        """The lowest offset that is not done; 0 while that is not known."""
        owned = self._owned.get(partition)
        return owned.offsets.position if owned is not None and owned.offsets is not None else 0

    @property
    def partitions(self) -> list[int]:
        return sorted(self._owned)

    def _assigned(self, _: Consumer, partitions: list[KafkaPartition]) -> None:
        self._metrics.rebalances.inc()
        # `_begin` learns the position. Until then any will do, as nothing is read; left to itself librdkafka
        # would look for a committed offset, and complain of its lack when reading goes on. It must be one
        # that needs no question to the broker: the answer to that for the log's end came after the seek,
        # measured, and what is in between was passed over.
        self._consumer.incremental_assign([KafkaPartition(self._topic, p.partition, 0) for p in partitions])
        if self._closing:
            return  # they are taken back at once
        for p in partitions:
            self._own(p.partition)
        self._looked_at = self._clock()
        log.info("partitions assigned", new=[p.partition for p in partitions], owned=self.partitions)

    def _own(self, partition: int) -> None:
        """A new epoch; nothing is read before its position is known and its retries are restored."""
        self._epoch += 1
        self._owned[partition] = OwnedPartition(self._epoch, Lateness(self._wall_ms()))
        self._set_paused(partition, True)

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
        # What is to be committed was, before the client closes. Then it may answer no more: seen twice under
        # faults, a worker that had been given a partition in that moment never came back from here.
        self._on_leaving(leaving, lost or self._closing)
        for partition in leaving:
            del self._owned[partition]
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
        return self._paused

    def pause(self) -> None:
        """Stop reading; `poll` still has to be called."""
        self._paused = True
        for partition in self._owned:
            self._set_paused(partition, True)

    def resume(self) -> None:
        now = self._clock()
        self._paused = False
        for partition, owned in self._owned.items():
            if owned.offsets is not None and owned.held_back is None:
                owned.heard_at = now
                self._set_paused(partition, False)

    # ── committing ───────────────────────────────────────────────────────────────────────────────────────

    def done(self, record: Record) -> None:
        """`record` has ended: what is committed next may say so."""
        owned = self._owned.get(record.partition)
        if owned is not None and owned.epoch == record.epoch and owned.offsets is not None:
            owned.offsets.done(record.offset)

    @property
    def uncommitted(self) -> bool:
        """Whether there is something that no commit has said yet."""
        return any(o.offsets is not None and o.offsets.uncommitted for o in self._owned.values())

    def _states(
        self, mark: str = "", also: Set[int] = frozenset(), leaving: Set[int] = frozenset()
    ) -> tuple[tuple[int, int, tuple[int, str]], ...]:
        named = also | leaving
        return tuple(
            (partition, owned.epoch, owned.offsets.state(mark, leaving=partition in leaving))
            for partition, owned in self._owned.items()
            if owned.offsets is not None and (partition in named or owned.offsets.uncommitted)
        )

    def snapshot(self, mark: str, also: Set[int], leaving: Set[int]) -> Snapshot | None:
        """What a transaction commits: partitions with something new, those of `also`, those that are left.

        The metadata is taken first, so that a freeze in between leaves an old membership with an old table,
        which the broker refuses. A new membership with an old table is the one thing that it would take, and
        somebody else's offsets would be overwritten.

        Returns:
            None when the group has not been looked at for too long, or this process is no member of it: poll
            first.
        """
        member = self._consumer.consumer_group_metadata()
        if self._clock() - self._looked_at > _FRESH or not is_member(member):
            return None
        return Snapshot(self._topic, member, self._states(mark, also, leaving))

    def committed(self, snapshot: Snapshot) -> None:
        """The broker has `snapshot`."""
        for partition, epoch, state in snapshot.states:
            owned = self._owned.get(partition)
            if owned is not None and owned.epoch == epoch and owned.offsets is not None:
                owned.offsets.committed(state)

    def not_committed(self, snapshot: Snapshot) -> None:
        """It does not; `uncommitted` is true again."""
        for partition, epoch, _ in snapshot.states:
            owned = self._owned.get(partition)
            if owned is not None and owned.epoch == epoch and owned.offsets is not None:
                owned.offsets.not_committed()

    def wrote(self, snapshot: Snapshot, mark: str) -> bool | None:
        """Whether the transaction with `mark`, whose end was not seen, was committed. Asks the broker.

        A transaction is committed whole or not at all: one partition that is still ours tells it.

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

    def commit(self, *, leaving: Set[int] | None = None) -> None:
        """Commit what is done outside of any transaction.

        Args:
            leaving: partitions that are given up in order; with it, returns when the broker has it.
        """
        wait = leaving is not None
        states = self._states(leaving=leaving or frozenset())
        if not states:
            return
        snapshot = Snapshot(self._topic, None, states)
        try:
            if wait:
                self._consumer.commit(offsets=snapshot.offsets, asynchronous=False)
            else:
                self._consumer.commit(offsets=snapshot.offsets, asynchronous=True)
        except KafkaException as error:
            self._commit_failed([p for p, _, _ in states], error.args[0])
            return
        self.committed(snapshot)
        self._metrics.commits["committed"].inc()

    def _on_commit(self, error: KafkaError | None, partitions: list[KafkaPartition]) -> None:
        if error is not None:
            self._commit_failed([p.partition for p in partitions], error)

    def _commit_failed(self, partitions: Iterable[int], error: KafkaError) -> None:
        # harmless: what was published may be published again, and the next commit says all of it
        self._metrics.commits["failed"].inc()
        log.warning("commit failed; it is tried again", error=error.str())
        for partition in partitions:
            owned = self._owned.get(partition)
            if owned is not None and owned.offsets is not None:
                owned.offsets.not_committed()

    # ── watching ─────────────────────────────────────────────────────────────────────────────────────────

    def report(self) -> None:
        """Bring the metrics of all owned partitions up to date; look after those that are silent."""
        self._look_after_silent()
        self._metrics.assigned.set(len(self._owned))
        self._metrics.paused.set(len(self._owned) if self._paused else 0)
        for partition, owned in self._owned.items():
            if owned.offsets is None:
                continue
            _, high = self._consumer.get_watermark_offsets(
                KafkaPartition(self._topic, partition), cached=True
            )
            unread = max(0, high - owned.offsets.next)
            late = owned.lateness.seconds(self._wall_ms(), unread)
            self._metrics.set_lag(partition, unread, owned.offsets.next - owned.offsets.position, late)

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
