"""Stand-ins for the worker's own Kafka parts: `UploadsConsumer` and a `Delivery`.

tests/contracts/test_uploads_consumer.py and test_delivery.py run the same tests against both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Set

from tests.support.fake_kafka import FakeBroker
from worker.kafka.assignment import BegunPartition, Snapshot
from worker.kafka.delivery import OnRefused, Result, cut_or_raise
from worker.kafka.offsets import DOUBT_SPAN, PartitionOffsets, lives_of, mark_of
from worker.kafka.pending_retries import PendingRetries
from worker.kafka.retry_changelog import Pending
from worker.messages.headers import ReplayHeaders
from worker.messages.record import Record

GROUP, UPLOADS = "group", "uploads"


def nothing(*_: object) -> None:
    pass


class FakeUploadsConsumer:
    """One log per partition, owned until `revoke`; keeps what was committed, as a broker would.

    Attributes:
        stored: partition → the offset and metadata that are committed.
        replays: (partition, offset) of uploads that are sent again, with their headers.
        finished: (partition, offset) of what was done, in order.
        left: partitions that a snapshot gave up in order.
        broker: where transactions with its snapshots are committed, for `wrote` and memberships.
    """

    def __init__(
        self,
        logs: dict[int, list[bytes | None]],
        on_begun: Callable[[BegunPartition], None] = nothing,
        on_leaving: Callable[[set[int], bool], None] = nothing,
        broker: FakeBroker | None = None,
    ) -> None:
        self.logs = logs
        self.on_begun = on_begun
        self.on_leaving = on_leaving
        self.broker = broker or FakeBroker({UPLOADS: len(logs)})
        self.stored: dict[int, tuple[int, str]] = dict.fromkeys(logs, (0, ""))
        self.owned: dict[int, PartitionOffsets] = {}
        self.epochs: dict[int, int] = {}
        self.read: dict[int, int] = {}
        self.finished: list[tuple[int, int]] = []
        self.left: set[int] = set()
        self.is_member = True
        self.paused = False
        self.closed = False
        self.traceparent: bytes | None = None
        self.replays: dict[tuple[int, int], ReplayHeaders] = {}

    # ── partitions ───────────────────────────────────────────────────────────────────────────────────────

    def assign(self, partition: int, retries: list[Result]) -> None:
        """Begin where the last commit ended, with the pending retries that the topic `retries` has."""
        position, metadata = self.stored[partition]
        end = min(position + DOUBT_SPAN, len(self.logs[partition]))
        self.owned[partition] = PartitionOffsets(position, metadata, end)
        self.epochs[partition] = self.epochs.get(partition, 0) + 1
        self.read[partition] = position
        pending: PendingRetries[Pending] = PendingRetries()
        for result in retries:
            if result.source.partition == partition and result.key is not None:
                self._restore(pending, result, result.key)
        epoch = self.epochs[partition]
        self.on_begun(BegunPartition(partition, epoch, position, lives_of(metadata), pending, end))

    def _restore(self, pending: PendingRetries[Pending], result: Result, key: bytes) -> None:
        pending.remove(key.decode())
        if result.value is None:
            return
        headers = {name: int(value) for name, value in result.headers if name != "error-code"}
        epoch = self.epochs[result.source.partition]
        record = dataclasses.replace(
            result.source, epoch=epoch, key=key, value=result.value, handed_over=True
        )
        retry = Pending(record, headers["attempt"], headers["not-before"], headers.get("deaths", 0))
        pending.add(key.decode(), retry, retry.not_before / 1000, record.timestamp)

    def revoke(self, partition: int, lost: bool) -> None:
        self.on_leaving({partition}, lost)
        del self.owned[partition]

    def owns(self, partition: int, epoch: int) -> bool:
        return partition in self.owned and self.epochs[partition] == epoch

    @property
    def partitions(self) -> list[int]:
        return sorted(self.owned)

    @property
    def waiting(self) -> dict[int, str]:
        return {}

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────

    def poll(self, limit: int, timeout: float) -> list[Record]:
        records: list[Record] = []
        if self.paused:
            return records
        for partition, offsets in self.owned.items():
            while len(records) < limit and self.read[partition] < len(self.logs[partition]):
                offset = self.read[partition]
                self.read[partition] += 1
                if offsets.take(offset):
                    value = self.logs[partition][offset]
                    key = f"{partition}-{offset % 3}".encode() if value is None else None
                    epoch = self.epochs[partition]
                    replay = self.replays.get((partition, offset))
                    records.append(
                        Record(partition, epoch, offset, key, value, 1000, self.traceparent, replay)
                    )
        return records

    def take(self, record: Record) -> None:
        """`record` counts as read, without a log."""
        if self.owns(record.partition, record.epoch):
            self.owned[record.partition].take(record.offset)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    # ── committing ───────────────────────────────────────────────────────────────────────────────────────

    def done(self, record: Record) -> None:
        if self.owns(record.partition, record.epoch) and not record.handed_over:
            self.finished.append((record.partition, record.offset))
            self.owned[record.partition].done(record.offset)

    def position(self, partition: int) -> int:
        return self.owned[partition].position

    def encoding(self, partition: int) -> None:
        self.owned[partition].encoding()

    def is_encoding_known(self, partition: int) -> bool:
        return partition in self.owned and self.owned[partition].is_encoding_known

    @property
    def uncommitted(self) -> bool:
        return any(offsets.uncommitted for offsets in self.owned.values())

    committing = False  # it is answered at once

    def commit(self, *, leaving: Set[int] = frozenset()) -> None:
        for partition, offsets in self.owned.items():
            self.stored[partition] = offsets.state(leaving=partition in leaving)
            offsets.committed(self.stored[partition])

    def snapshot(self, mark: str, also: Set[int], leaving: Set[int]) -> Snapshot | None:
        if not self.is_member:
            return None
        self.left |= leaving
        named = also | leaving
        states = tuple(
            (partition, self.epochs[partition], offsets.state(mark, leaving=partition in leaving))
            for partition, offsets in self.owned.items()
            if partition in named or offsets.uncommitted
        )
        return Snapshot(UPLOADS, self.broker.metadata(GROUP, None), states)

    def committed(self, snapshot: Snapshot) -> None:
        for partition, epoch, state in snapshot.states:
            if self.owns(partition, epoch):
                self.stored[partition] = state
                self.owned[partition].committed(state)

    def not_committed(self, snapshot: Snapshot) -> None:
        for partition, epoch, _ in snapshot.states:
            if self.owns(partition, epoch):
                self.owned[partition].not_committed()

    def wrote(self, snapshot: Snapshot, mark: str) -> bool | None:
        with self.broker.call("ask"):
            pass
        for partition, epoch, _ in snapshot.states:
            if self.owns(partition, epoch):
                _, metadata = self.broker.committed.get((GROUP, UPLOADS, partition), (0, ""))
                return mark_of(metadata) == mark
        return None

    def report(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class FakeDelivery:
    """Keeps results until a test commits them, all at once with their offsets: a transaction.

    Attributes:
        results: what is committed, in order.
        gathered: what is not.
        prompt: whether turns commit.
        refuses: whether nothing more can be committed for partitions that go.
    """

    def __init__(self, consumer: FakeUploadsConsumer) -> None:
        self.consumer = consumer
        self.results: list[Result] = []
        self.gathered: list[Result] = []
        self.prompt = self.refuses = False
        self.on_refused: OnRefused = cut_or_raise

    @property
    def waiting(self) -> int:
        return len(self.gathered)

    @property
    def waiting_bytes(self) -> int:
        return sum(len(result.value or b"") for result in self.gathered)

    def publish(self, *results: Result) -> None:
        self.gathered += results

    def run_once(self) -> None:
        if self.prompt:
            self.commit()

    def commit(self, leaving: frozenset[int] = frozenset()) -> None:
        for result in self.gathered:
            assert self.consumer.owns(result.source.partition, result.source.epoch)
            self.consumer.done(result.source)
            result.ended()
        self.results += self.gathered
        self.gathered = []
        self.consumer.commit(leaving=leaving)

    def leave(self, partitions: set[int], lost: bool) -> None:
        if not (lost or self.refuses):
            self.commit(frozenset(partitions))
        gone = [r for r in self.gathered if r.source.partition in partitions]
        self.gathered = [r for r in self.gathered if r.source.partition not in partitions]
        for result in gone:
            result.ended("dropped")

    def finish(self, timeout: float) -> bool:
        self.commit(frozenset(self.consumer.owned))
        return True

    @property
    def ends(self) -> list[Result]:
        """What was published beside the retry topic."""
        return [result for result in self.results if result.topic != "retry"]

    @property
    def retries(self) -> list[Result]:
        return [result for result in self.results if result.topic == "retry"]
