"""Where the view reads each partition from: at first, and again when Redis turns out to lack something.

No call waits for Kafka longer than `KAFKA_TIMEOUT`: what is not answered is asked again in a later round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaException, TopicPartition

from worker.kafka.assignment import OwnedPartitions
from worker.kafka.beginning import differ
from worker.kafka.retention import DeleteRetention
from worker.kafka.topic_ids import TopicIds
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.view.client import RedisTrouble
from worker.view.commits import Commits
from worker.view.positions import KAFKA_TIMEOUT, Positions
from worker.view.state import Batch, ViewPartition
from worker.view.store import Reached, Span, TagsView
from worker.view.sweep import Offsets, Rebuild, Sweeper

log = logs.get(__name__)

EDGES_SECONDS = 60.0  # how often it looks whether a partition is at its end
SHORT_AWAY = 2 * EDGES_SECONDS  # never too long, whatever the topic keeps deletions for
LOST = "Redis does not have all that was written"
MADE_ANEW = "the topic was deleted and made anew"
OUTDATED = "deletions may have been compacted away unread"
REQUESTED = "asked for"


class Recovery:
    """Positions partitions, and reads them again where that is needed.

    Args:
        topic: the tags topic.
        owned: partition → state.
        commits: of the same partitions.
        drop: forgets the records of partitions that were read and not written.
        retention: how long the topic keeps deletions. A view that was away for longer may have missed some
            for ever, and reads the topic again from its start.
        ids: of the topic.
        clock: seconds, steady.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        topic: str,
        owned: OwnedPartitions[ViewPartition],
        commits: Commits,
        view: TagsView,
        sweeper: Sweeper,
        *,
        drop: Callable[[Collection[int]], None],
        retention: DeleteRetention,
        ids: TopicIds,
        metrics: Metrics,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._topic, self._owned, self._commits = topic, owned, commits
        self._view, self._sweeper = view, sweeper
        self._drop, self._retention, self._metrics = drop, retention, metrics
        self._ids, self._clock, self._now = ids, clock, now
        self._next_edges = 0.0
        self._positions = Positions(topic)
        self._consumer: Any = None

    def connect(self, consumer: Any) -> None:
        self._consumer = consumer
        self._positions.connect(consumer)

    @property
    def positions(self) -> Positions:
        return self._positions

    # ── the beginning ────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Learn where new partitions stand: what the group committed, and what Redis really has.

        Raises:
            KafkaException, RedisTrouble: no answer; they stay new.
        """
        new = [p for p, state in self._owned.items() if state.next is None and state.rewind is None]
        topic = self._ids.of(self._topic)
        if not new or topic is None:
            return
        reached = self._view.reached(new)
        asked = [TopicPartition(self._topic, p) for p in new]
        committed = self._consumer.committed(asked, timeout=KAFKA_TIMEOUT)
        # Asked last: whatever has been committed by then lies within them, by whom and however long ago. The
        # other way round, a process that was frozen in between took its successor's work for a new topic.
        ends = self._positions.edges(new, OFFSET_END)
        behind, gone = {}, {}
        for position in committed:
            if position.error is not None:
                raise KafkaException(position.error)
            partition, has = position.partition, reached[position.partition]
            self._owned[partition].committed = position.offset if position.offset >= 0 else None
            if self._is_another(position, has, topic, ends[partition]):
                gone[partition] = topic
            else:
                self._owned[partition].topic = topic or has.topic
                if (start := self._start(position, has)) is not None:
                    behind[partition] = start
        self._note_topics(reached)
        self.rewind(behind, LOST)
        self._made_anew(gone)

    def _is_another(self, committed: TopicPartition, has: Reached, topic: str, end: int) -> bool:
        """Whether what group or Redis remember is of a topic that is no more.

        A topic that has lost its end is as good as another one: offsets come a second time.
        """
        if differ(has.topic, topic) or differ(committed.metadata or "", topic):
            return True
        return bool(committed.offset > end)

    def _start(self, committed: TopicPartition, has: Reached) -> Reached | None:
        """Go on where the group was; or where to read from again, because Redis has less than that."""
        state, offset = self._owned[committed.partition], committed.offset
        if state.committed is None:
            return Reached()
        if has.offset < offset:
            return has
        if self._positions.seek(committed.partition, offset):
            state.next, state.at = offset, has.at
        return None

    # ── another topic ────────────────────────────────────────────────────────────────────────────────────

    def follow_topic(self) -> None:
        """Is it the topic still that our offsets are of?

        Raises:
            KafkaException, RedisTrouble
        """
        if not self._ids.poll():
            return
        topic = self._ids.of(self._topic)
        self._made_anew({p: topic for p, s in self._owned.items() if topic and differ(s.topic, topic)})

    def refresh_topic(self) -> None:
        """Partitions have come: it may be another topic by now."""
        self._ids.refresh()

    def _made_anew(self, topics: Mapping[int, str]) -> None:
        """Remove what Redis has of these partitions, and read them from their start.

        Their offsets begin again, and the new tags would be refused as older than the old ones.
        """
        if topics:  # a client that once heard that there is no such topic does not look again by itself
            self._consumer.list_topics(self._topic, timeout=KAFKA_TIMEOUT)
        self.rewind(dict.fromkeys(topics, Reached()), MADE_ANEW)
        for partition, topic in topics.items():
            log.error("the tags topic was made anew; its tags are removed from Redis", partition=partition)
            self._owned[partition].topic = topic
            self._owned[partition].clearing = self._sweeper.clear(partition)

    def _note_topics(self, reached: Mapping[int, Reached]) -> None:
        """Let Redis know the topic's id where it does not yet: it was written by an older version."""
        unknown = {p: self._owned[p].topic for p, has in reached.items() if has.offset >= 0 and not has.topic}
        known = {partition: topic for partition, topic in unknown.items() if topic}
        if known:
            self._view.note_topics(known)

    # ── what is missing ──────────────────────────────────────────────────────────────────────────────────

    def look(self) -> None:
        """Does Redis still have everything, and are we at the topic's end?

        Raises:
            KafkaException, RedisTrouble
        """
        if self._clock() >= self._next_edges:
            now = int(self._now() * 1000)
            for partition, end in self._positions.edges(self._owned, OFFSET_END).items():
                state = self._owned[partition]
                if state.next is not None and end <= state.next:
                    state.at = max(state.at, now)
            self._next_edges = self._clock() + EDGES_SECONDS
        spans = {p: Span(s.next, s.next, s.at) for p, s in self._owned.items() if s.next is not None}
        if spans:
            self.compare(self._view.apply([], spans).reached)
        else:
            self._view.reached([])  # shows whether Redis is there

    def compare(self, reached: Mapping[int, int]) -> None:
        """Read again what Redis does not have, though it was written.

        Args:
            reached: partition → offset that Redis has come to.
        """
        if any(offset < (self._owned[partition].next or 0) for partition, offset in reached.items()):
            stored = self._view.reached(list(self._owned))  # what one partition lost, others may have, too
            ours = {p: state.next for p, state in self._owned.items() if state.next is not None}
            behind = {p: stored[p] for p, offset in ours.items() if stored[p].offset < offset}
            self.rewind(behind, LOST)

    def read_outdated_again(self, ends: Mapping[int, int]) -> None:
        """Begin again where deletions before `ends` may have been compacted away before they were read."""
        outdated = [p for p, end in ends.items() if self._outdated(self._owned[p], end)]
        self.rewind(dict.fromkeys(outdated, Reached()), OUTDATED)

    def _outdated(self, state: ViewPartition, end: int) -> bool:
        age = self._now() - state.at / 1000
        if end <= (state.next or 0) or age <= SHORT_AWAY:
            return False
        return age > self._retention.seconds(KAFKA_TIMEOUT)

    def note(self, batch: Batch) -> None:
        """What was written of partitions that are being read from their start."""
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

    # ── reading again ────────────────────────────────────────────────────────────────────────────────────

    def rewind(self, starts: Mapping[int, Reached], reason: str) -> None:
        """Read partitions again from these offsets; -1: from the start of the topic.

        The order makes it safe to die anywhere: first the group forgets that it was further, then Redis
        learns where it stands (`proceed`), and only then records follow.

        Raises:
            KafkaException: nothing has happened.
        """
        if not starts:
            return
        lows, highs = (
            self._positions.edges(starts, OFFSET_BEGINNING),
            self._positions.edges(starts, OFFSET_END),
        )
        self._drop(starts.keys())
        now = int(self._now() * 1000)
        back = {}
        for partition, start in starts.items():
            state, low = self._owned[partition], lows[partition]
            state.next, state.rewind = None, Reached(low, now) if start.offset < low else start
            # an emptied Redis holds nothing that the topic does not, nor does one that is cleared
            again = start.offset < low and reason not in (LOST, MADE_ANEW)
            state.rebuild = Rebuild(highs[partition], Offsets(low)) if again else None
            if (state.committed or 0) > state.rewind.offset:
                back[str(partition)] = state.rewind.offset
        if back:
            self._metrics.view_rebuilds.inc()
            log.warning("the view reads tags again", reason=reason, from_offsets=back)

    def proceed(self) -> None:
        """Go on with partitions that are to be read again, as far as the group has forgotten them.

        Raises:
            KafkaException, RedisTrouble: they wait.
        """
        self._clear()
        if self._commits.busy:  # it could say again that the group was further
            return
        ready = {
            partition: state.rewind
            for partition, state in self._owned.items()
            if state.rewind is not None and state.clearing is None and state.committed == state.rewind.offset
        }
        if not ready:
            return
        self._view.restart(
            {p: dataclasses.replace(begin, topic=self._owned[p].topic) for p, begin in ready.items()}
        )
        for partition, begin in ready.items():
            if self._positions.seek(partition, begin.offset):
                state = self._owned[partition]
                state.next, state.at, state.rewind = begin.offset, begin.at, None

    def _clear(self) -> None:
        """A step of what removes the tags of a topic that is gone: its offsets would refuse the new ones."""
        for partition, state in self._owned.items():
            if state.clearing is None:
                continue
            try:
                removed = next(state.clearing, None)
            except RedisTrouble:
                state.clearing = self._sweeper.clear(partition)  # from its start
                raise
            if removed is None:
                state.clearing = None
            else:
                self._metrics.view_swept.inc(removed)
