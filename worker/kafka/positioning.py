"""Where a partition begins to be read, and setting one going again that has stopped.

    assigned → committed offset known → pending retries restored → position → read

Nothing of a partition is read before its position is known. All of it runs on the thread that owns Kafka,
between two polls.
"""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from worker.kafka.assignment import (
    POSITION_TIMEOUT,
    POSITION_TIMEOUT_MAX,
    BegunPartition,
    OwnedPartition,
    OwnedPartitions,
)
from worker.kafka.failpoints import reach
from worker.kafka.offsets import PartitionOffsets, lives_of
from worker.kafka.pending_retries import PendingRetries
from worker.kafka.retry_changelog import Pending, RetryChangelog
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics

log = logs.get(__name__)

_SEEK_RETRY = 0.02
_POSITION_RETRY = 0.3
# A partition that is silent for so long is looked after; where nothing comes of it, less and less often.
_SILENCE, _SILENCE_MAX = 5.0, 300.0


class Positioning:
    """
    Args:
        client: the consumer, which owns the partitions.
        owned: the table of them.
        start: "earliest" or "latest", for partitions without a committed offset.
        retries: restores the pending retries of a partition before its first record is read.
        on_begun: called when a partition's position is known, before its first record.
    """

    def __init__(
        self,
        client: Consumer,
        topic: str,
        owned: OwnedPartitions[OwnedPartition],
        *,
        start: str,
        retries: RetryChangelog,
        on_begun: Callable[[BegunPartition], None],
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._topic = topic
        self._owned = owned
        self._start = start
        self._retries = retries
        self._on_begun = on_begun
        self._clock = clock
        self._metrics = metrics
        self._paused = False

    # ── reading rests and goes on ────────────────────────────────────────────────────────────────────────

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self) -> None:
        self._paused = True
        for partition in self._owned:
            self.set_paused(partition, True)

    def resume(self) -> None:
        now = self._clock()
        self._paused = False
        for partition, owned in self._owned.items():
            if owned.offsets is not None and owned.held_back is None:
                owned.heard_at = now
                self.set_paused(partition, False)

    def set_paused(self, partition: int, paused: bool) -> None:
        # a paused partition stays paused across assignments: say it either way
        here = [KafkaPartition(self._topic, partition)]
        if paused:
            self._client.pause(here)
        else:
            self._client.resume(here)

    def heard(self, owned: OwnedPartition, at: float) -> None:
        """A record has come."""
        owned.heard_at, owned.silence = at, _SILENCE

    def heard_all(self) -> None:
        """Silence counts from now on."""
        now = self._clock()
        for owned in self._owned.values():
            if owned.offsets is not None:
                self.heard(owned, now)

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
            committed = self._client.committed([here], timeout=owned.patience)[0]
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
                low, high = self._client.get_watermark_offsets(here, timeout=POSITION_TIMEOUT_MAX)
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
        if not self.go_to(partition, position, nowhere=owned.reset):
            owned.ask_at = self._clock() + _SEEK_RETRY
            return
        if committed.offset < 0:
            log.info("partition begins", partition=partition, offset=position, start=self._start)
        owned.offsets = PartitionOffsets(position, committed.metadata if known else None)
        owned.reset = False
        owned.restored = None
        self.heard(owned, self._clock())
        self._on_begun(
            BegunPartition(partition, owned.epoch, position, lives_of(committed.metadata), restored)
        )
        self.set_paused(partition, self._paused)

    def _count_lost(self, partition: int, committed: int, low: int, high: int) -> None:
        lost = max(0, low - committed)
        self._metrics.records_lost.inc(lost)
        log.error(
            "committed offset is outside of the log; going on at the log's start",
            partition=partition, committed=committed, log_start=low, log_end=high, records_lost=lost,
        )  # fmt: skip

    def go_to(self, partition: int, offset: int, *, nowhere: bool = False) -> bool:
        """Let a paused partition read on from `offset`; False when it cannot just now.

        By seek(), unless the partition found `nowhere` to begin, which seek() refuses. To assign it anew
        makes librdkafka forget a loss that it has not reported yet: measured, a member that woke up too late
        then heard of a revocation, under a new membership already, and committed over its successor.
        """
        here = KafkaPartition(self._topic, partition, offset)
        if nowhere:
            self._client.incremental_unassign([here])
            self._client.incremental_assign([here])
            self.set_paused(partition, True)
            return True
        try:
            self._client.seek(here)
        except KafkaException as error:  # its reading has not begun yet, or has just failed
            log.debug("cannot seek yet", partition=partition, offset=offset, error=error.args[0].str())
            return False
        return True

    def hold_back(self, partition: int, owned: OwnedPartition, offset: int) -> None:
        owned.held_back = offset
        self._client.pause([KafkaPartition(self._topic, partition)])
        log.warning("partition waits: an upload far behind is not done", partition=partition, offset=offset)

    def attend(self) -> None:
        """See to partitions without a position, and to those that wait for their commits to catch up."""
        for partition, epoch, restored in self._retries.poll():
            if (owned := self._owned.of_epoch(partition, epoch)) is not None:
                owned.restored = restored
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
                and self.go_to(partition, owned.held_back)
            ):
                owned.held_back = None
                self.set_paused(partition, self._paused)

    # ── partitions that fall silent ──────────────────────────────────────────────────────────────────────

    def look_after_silent(self, fresh: Callable[[], bool]) -> None:
        """Set a partition going again that has records and brings none.

        Seen with librdkafka 2.16 on a busy machine with a broker that had just started: a partition that was
        assigned and positioned was never fetched, without an error. Asks the broker one question at most.
        """
        now = self._clock()
        if self._paused or not fresh():
            return
        for partition, owned in self._owned.items():
            if owned.offsets is None or owned.held_back is not None or now - owned.heard_at < owned.silence:
                continue
            again = owned.silence > _SILENCE
            owned.heard_at, owned.silence = now, min(2 * owned.silence, _SILENCE_MAX)
            here = KafkaPartition(self._topic, partition)
            try:
                _, high = self._client.get_watermark_offsets(here, timeout=POSITION_TIMEOUT)
            except KafkaException:
                return
            if high > owned.offsets.next and fresh():
                # what is above may be no record but the end of a producer's transaction: nothing to warn of
                log.info("a silent partition is positioned again", partition=partition, log_end=high)
                self.set_paused(partition, True)
                self.go_to(partition, owned.offsets.next, nowhere=again)
                self.set_paused(partition, self._paused)
            return
