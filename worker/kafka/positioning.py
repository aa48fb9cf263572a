"""Where a partition begins to be read, and setting one going again that has stopped.

    assigned → committed offset known → pending retries restored → position → read

Nothing of a partition is read before its position is known. All of it runs on the thread that owns Kafka,
between two polls.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from worker.errors import StartError
from worker.kafka.assignment import (
    POSITION_TIMEOUT,
    POSITION_TIMEOUT_MAX,
    BegunPartition,
    OwnedPartition,
    OwnedPartitions,
)
from worker.kafka.beginning import MADE_ANEW, Beginning, LastKnown, differ, in_log, in_new_topic
from worker.kafka.failpoints import reach
from worker.kafka.offsets import DOUBT_SPAN, CommitTopics, PartitionOffsets, lives_of, topics_of
from worker.kafka.pending_retries import PendingRetries
from worker.kafka.reading import NO_RIGHT
from worker.kafka.retry_changelog import Pending, RetryChangelog
from worker.kafka.topic_ids import TopicIds
from worker.kafka.topic_notes import TopicNotes
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics

log = logs.get(__name__)

_SEEK_RETRY = 0.02
_TOPIC_TIMEOUT = 1.0
# Questions of one round to a broker that is slow: after this the rest waits for the next one, with a poll in
# between.
ROUND = 1.0
_POSITION_RETRY = 0.3
# A partition that is silent for so long is looked after; where nothing comes of it, less and less often.
_SILENCE, _SILENCE_MAX = 5.0, 300.0
_RETRIES_GONE = "the retry topic was deleted and created again; the uploads that waited in it are gone"
LONG = 10.0  # seconds after which a partition that has not begun is warned of


class Positioning:
    """
    Args:
        client: the consumer, which owns the partitions.
        owned: the table of them.
        start: "earliest" or "latest", for partitions without a committed offset.
        retries: restores the pending retries of a partition before its first record is read.
        ids: of the topics, the uploads' and the retries'.
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
        ids: TopicIds,
        on_begun: Callable[[BegunPartition], None],
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._topic = topic
        self._owned = owned
        self._start = start
        self._retries = retries
        self._ids = ids
        self._on_begun = on_begun
        self._clock = clock
        self._wall_ms = wall_ms
        self._metrics = metrics
        self._last_known: dict[int, LastKnown] = {}
        self._notes = TopicNotes(client, retries.topic, wanted=start == "latest", clock=clock)
        self._paused = False
        self._unanswered = False  # a question of this round
        self._assigned_anew = False

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

    def _ask(self, due: Mapping[int, OwnedPartition]) -> None:
        """Ask where the last owners ended, then restore their pending retries: all that were just assigned
        at once. Where that has no answer, as one of them holds it back, one by one.

        Asked here and not in on_assign, because the answer waits for open transactions of the last owner: one
        whose offsets the group had taken may be committed long after it lost the partition, with records for
        the retry topic in it (measured: a broker that was killed in between). With the answer they are over,
        and no other can come, because the group takes no more offsets of that member. So the retries are
        read after it, and never before.
        """
        alone = [p for p in due if due[p].asked]
        asked = {p: owned for p, owned in due.items() if not owned.asked} or {p: due[p] for p in alone[:1]}
        here = [KafkaPartition(self._topic, p) for p in asked]
        try:
            patience = max(owned.patience for owned in asked.values())
            found = self._client.committed(here + self._notes.where(asked), timeout=patience)
            for committed in found[: len(here)]:
                if committed.error is not None:
                    raise KafkaException(committed.error)
        except KafkaException as error:
            for partition, owned in asked.items():
                owned.asked = True
                self._ask_later(partition, owned, error)
            return
        for note in found[len(here) :]:
            self._notes.take(note)
        for committed in found[: len(here)]:
            reach("after-committed-read")
            owned = asked[committed.partition]
            owned.committed = committed
            self._retries.begin(committed.partition, owned.epoch)

    def _ask_later(self, partition: int, owned: OwnedPartition, error: KafkaException) -> None:
        if error.args[0].code() in NO_RIGHT:
            raise StartError(
                f"Kafka refuses the committed offsets of {self._topic!r}: {error.args[0].str()}; "
                "grant Read on the topic and on the group"
            )
        self._unanswered = True
        owned.trouble = f"no committed offset from Kafka: {error.args[0].str()}"
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
        before = self._topics_before(partition, committed)
        now = self._topics(before)
        if now is None:
            owned.trouble = f"there is no topic {self._topic!r} or {self._retries.topic!r} now"
            return
        begins = self._where(partition, owned, committed, before, now)
        if begins is None or not self._can_begin(partition, owned, begins):
            return
        if differ(before.retry, now.retry) and before.pending:
            self._count_lost(partition, before.pending, _RETRIES_GONE)
        deaths = lives_of(begins.metadata)
        end = self._suspects_end(partition, begins.position) if deaths else 0
        owned.offsets = PartitionOffsets(begins.position, begins.metadata, end)
        owned.topics, owned.pending = now, restored
        owned.reset, owned.restored, owned.trouble = False, None, ""
        self._last_known.pop(partition, None)
        self.heard(owned, self._clock())
        self._on_begun(BegunPartition(partition, owned.epoch, begins.position, deaths, restored, end))
        self.set_paused(partition, self._paused)

    def _topics_before(self, partition: int, committed: KafkaPartition) -> CommitTopics:
        """Those that the group read last. With a topic Kafka deletes what was committed in it."""
        if committed.offset >= 0:
            return topics_of(committed.metadata)
        known = self._last_known.get(partition, LastKnown()).topics
        return known if known.uploads else CommitTopics(self._notes.of(partition))

    def _suspects_end(self, partition: int, position: int) -> int:
        """Where ends what an owner that died may have had in flight: it took in little, and nothing that has
        come since."""
        most = position + DOUBT_SPAN
        try:
            here = KafkaPartition(self._topic, partition)
            _, high = self._client.get_watermark_offsets(here, timeout=POSITION_TIMEOUT)
        except KafkaException:
            return most
        return min(most, high)

    def _where(
        self,
        partition: int,
        owned: OwnedPartition,
        committed: KafkaPartition,
        before: CommitTopics,
        now: CommitTopics,
    ) -> Beginning | None:
        """Where it begins; None when that needs the ends of the log, and the broker does not tell them."""
        made_anew = differ(before.uploads, now.uploads)
        if committed.offset >= 0 and not (owned.reset or made_anew):
            return Beginning(committed.offset, committed.metadata or "")
        here = KafkaPartition(self._topic, partition)
        try:
            low, high = self._client.get_watermark_offsets(here, timeout=POSITION_TIMEOUT_MAX)
        except KafkaException as error:
            self._ask_later(partition, owned, error)
            return None
        if made_anew:
            last_known = self._last_known.get(partition, LastKnown())
            return in_new_topic(committed.metadata, before, last_known, low)
        if committed.offset < 0:
            return Beginning(low if self._start == "earliest" else high)
        return in_log(committed.offset, committed.metadata, low, high, same=bool(before.uploads))

    def _can_begin(self, partition: int, owned: OwnedPartition, begins: Beginning) -> bool:
        """Go there, and say what is odd about it."""
        if not self.go_to(partition, begins.position, nowhere=owned.reset):
            owned.ask_at = self._clock() + _SEEK_RETRY
            return False
        if begins.why == MADE_ANEW:
            self._look_at_topic()
        if begins.why:
            self._count_lost(partition, begins.lost, begins.why, position=begins.position)
        elif owned.committed is None or owned.committed.offset < 0:
            log.info("partition begins", partition=partition, offset=begins.position, start=self._start)
        return True

    def _topics(self, before: CommitTopics) -> CommitTopics | None:
        """The topics that there are; None while that is not known.

        Where an id cannot be had, the topic is taken for the one of `before`.
        """
        uploads, retry = self._ids.of(self._topic), self._ids.of(self._retries.topic)
        if uploads is None or retry is None:
            return None
        return CommitTopics(uploads or before.uploads, retry or before.retry)

    def remember(self, partition: int, owned: OwnedPartition) -> None:
        """This assignment ends: what may have to be counted if the topic turns out to be gone."""
        if owned.offsets is not None:
            unread = max(0, owned.end - owned.offsets.next)
            self._last_known[partition] = LastKnown(self.topics_now(owned), unread + owned.offsets.unfinished)

    def begin_again(self, partition: int) -> None:
        """It is assigned, or has to look anew where it begins; nothing is read before that is known."""
        self._owned.begin(partition).assigned_at = self._clock()
        self.set_paused(partition, True)

    def topics_now(self, owned: OwnedPartition) -> CommitTopics:
        """What a commit says of the partition's topics."""
        pending = 0 if owned.pending is None else len(owned.pending)
        return dataclasses.replace(owned.topics, pending=pending)

    def note_topics(self, *, again: bool = False) -> None:
        """Have the group remember which topic it reads; `again`: it may not have taken the last note."""
        if again:
            self._notes.again()
            return
        begun = {p: o.topics.uploads for p, o in self._owned.items() if o.offsets is not None}
        self._notes.note({partition: topic for partition, topic in begun.items() if topic})

    def made_anew(self) -> set[int]:
        """Partitions whose offsets or retries are of a topic that is no more.

        What was begun while the ids were not known is taken to be of the topics that there are now.
        """
        uploads, retry = self._ids.of(self._topic), self._ids.of(self._retries.topic)
        found = set()
        for partition, owned in self._owned.items():
            if owned.offsets is None:
                continue
            known = owned.topics
            if differ(known.uploads, uploads) or differ(known.retry, retry):
                found.add(partition)
            else:
                owned.topics = CommitTopics(known.uploads or uploads or "", known.retry or retry or "")
        return found

    def _count_lost(self, partition: int, lost: int, why: str, **where: int) -> None:
        self._metrics.records_lost.inc(lost)
        log.error(why, topic=self._topic, partition=partition, records_lost=lost, **where)

    def _look_at_topic(self) -> None:
        """Have the client ask where the topic's partitions are. One that has once heard that there is no
        such topic may not ask again for five minutes, and reads nothing until then (librdkafka 2.16)."""
        with contextlib.suppress(KafkaException):
            self._client.list_topics(self._topic, timeout=_TOPIC_TIMEOUT)

    def go_to(self, partition: int, offset: int, *, nowhere: bool = False) -> bool:
        """Let a paused partition read on from `offset`; False when it cannot just now.

        By seek(), unless the partition found `nowhere` to begin, which seek() refuses: it is assigned anew.
        """
        here = KafkaPartition(self._topic, partition, offset)
        if nowhere:
            self._client.incremental_unassign([here])
            self._client.incremental_assign([here])
            self.set_paused(partition, True)
            self._assigned_anew = True
            return True
        try:
            self._client.seek(here)
        except KafkaException as error:  # its reading has not begun yet, or has just failed
            log.debug("cannot seek yet", partition=partition, offset=offset, error=error.args[0].str())
            return False
        return True

    @property
    def is_membership_known(self) -> bool:
        """False after a partition was assigned anew, until the client's queue has been empty.

        librdkafka takes these calls for the answer to a revocation or a loss that waits in its queue, and
        joins the group again, before this program has heard of it (`rd_kafka_cgrp_incremental_unassign`).
        Whatever waited is heard of before the queue is empty. Until then the table of owned partitions may be
        older than the membership, and the group would take offsets of partitions that are somebody else's.
        """
        return not self._assigned_anew

    def queue_was_empty(self) -> None:
        """A poll that began after the last call here has found nothing."""
        self._assigned_anew = False

    def hold_back(self, partition: int, owned: OwnedPartition, offset: int) -> None:
        owned.held_back = offset
        self._client.pause([KafkaPartition(self._topic, partition)])
        log.warning("partition waits: an upload far behind is not done", partition=partition, offset=offset)

    def attend(self) -> None:
        """See to partitions without a position, and to those that wait for their commits to catch up."""
        for partition, epoch, restored in self._retries.poll():
            if (owned := self._owned.of_epoch(partition, epoch)) is not None:
                owned.restored = restored
        self._unanswered = False
        now = self._clock()
        due = {p: o for p, o in self._owned.items() if o.offsets is None and now >= o.ask_at}
        unknown = {p: owned for p, owned in due.items() if owned.committed is None}
        while unknown and self._may_ask(now):
            self._ask(unknown)
            unknown = {p: owned for p, owned in unknown.items() if owned.committed is None}
        for partition, owned in due.items():
            if owned.committed is not None and owned.restored is not None and self._may_ask(now):
                self._begin(partition, owned, owned.committed, owned.restored)
        self._catch_up()

    def _may_ask(self, since: float) -> bool:
        """A broker that is away is asked one question in a round; one that is slow as many as fit into it."""
        return not self._unanswered and self._clock() - since < ROUND

    def _catch_up(self) -> None:
        for partition, owned in list(self._owned.items()):
            if (
                owned.held_back is not None
                and owned.offsets is not None
                and owned.offsets.fits(owned.held_back)
                and self.go_to(partition, owned.held_back)
            ):
                owned.held_back = None
                self.set_paused(partition, self._paused)

    # ── partitions that cannot begin ─────────────────────────────────────────────────────────────────────

    def waiting(self) -> dict[int, str]:
        """Partitions that have not begun and are not being restored, and why, as far as that is known."""
        return {
            partition: owned.trouble or self._retries.trouble(partition) or "not positioned yet"
            for partition, owned in self._owned.items()
            if owned.offsets is None and not self._retries.is_reading(partition)
        }

    def report_waiting(self) -> None:
        """Say what has been waiting for long, once; and count it."""
        now = self._clock()
        long = {p: why for p, why in self.waiting().items() if now - self._owned[p].assigned_at > LONG}
        self._metrics.waiting.set(len(long))
        for partition, why in long.items():
            if not self._owned[partition].told:
                self._owned[partition].told = True
                log.warning("partition cannot begin", partition=partition, reason=why, seconds=LONG)
        for partition in sorted(long, key=lambda p: self._owned[p].lag_at)[:1]:  # one question at a time
            self._report_lag(partition, self._owned[partition])

    def _report_lag(self, partition: int, owned: OwnedPartition) -> None:
        """What waits in a partition that has not begun."""
        owned.lag_at = self._clock()
        here = KafkaPartition(self._topic, partition)
        try:
            low, high = self._client.get_watermark_offsets(here, timeout=POSITION_TIMEOUT)
        except KafkaException:
            return
        position = max(low, -1 if owned.committed is None else owned.committed.offset)
        unread = max(0, high - position)
        self._metrics.set_lag(partition, unread, 0, owned.lateness.seconds(self._wall_ms(), unread))

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
                if again:
                    self._look_at_topic()
                self.set_paused(partition, True)
                self.go_to(partition, owned.offsets.next, nowhere=again)
                self.set_paused(partition, self._paused)
            return
