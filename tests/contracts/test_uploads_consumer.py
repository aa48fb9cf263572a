"""What the pipeline relies on in its consumer: the same tests for the stand-in and the real one.

The real one runs on the stand-in for Kafka's clients, which tests/contracts/test_kafka.py holds to Apache
Kafka.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fake_kafka import FakeBroker
from tests.support.fake_uploads import GROUP, UPLOADS, FakeUploadsConsumer
from tests.support.waiting import wait_for
from worker.kafka.assignment import BegunPartition
from worker.kafka.client_config import changelog_config, consumer_config
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.offsets import decode_done, mark_of
from worker.kafka.retry_changelog import RetryChangelog
from worker.kafka.topic_ids import TopicIds
from worker.messages.record import Record
from worker.telemetry.metrics import Metrics

RETRY = "retry"


class Side:
    """Two partitions with five records each, and one consumer after another."""

    def __init__(self) -> None:
        self.begun: list[BegunPartition] = []
        self.left: list[tuple[set[int], bool]] = []
        self.now = 100.0
        self.consumer: Any = None

    def leaving(self, partitions: set[int], lost: bool) -> None:
        self.left.append((set(partitions), lost))

    def start(self) -> Any:
        raise NotImplementedError

    def give_up(self, partition: int, lost: bool) -> None:
        raise NotImplementedError

    def stored(self, partition: int) -> tuple[int, str]:
        raise NotImplementedError

    def read(self, count: int) -> list[Record]:
        """That many records, by partition and offset."""
        records: list[Record] = []

        def enough() -> bool:
            records.extend(self.consumer.poll(100, 0))
            return len(records) >= count

        wait_for(f"{count} records", enough)
        return sorted(records, key=lambda record: (record.partition, record.offset))


class FakeSide(Side):
    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[int, list[bytes | None]] = {p: [b"%d" % n for n in range(5)] for p in range(2)}
        self.kept: dict[int, tuple[int, str]] = {}

    def start(self) -> FakeUploadsConsumer:
        if self.consumer is not None:
            self.kept = self.consumer.stored
        self.consumer = FakeUploadsConsumer(self.logs, self.begun.append, self.leaving)
        self.consumer.stored |= self.kept
        for partition in self.logs:
            self.consumer.assign(partition, [])
        return self.consumer

    def give_up(self, partition: int, lost: bool) -> None:
        self.consumer.revoke(partition, lost)

    def stored(self, partition: int) -> tuple[int, str]:
        found: tuple[int, str] = self.consumer.stored[partition]
        return found


class RealSide(Side):
    def __init__(self, patch: Callable[[str, object], None]) -> None:
        super().__init__()
        self.broker = FakeBroker({UPLOADS: 2, RETRY: 2})
        for partition in range(2):
            for n in range(5):
                self.broker.send(UPLOADS, b"%d" % n, partition)
        patch("worker.kafka.consumer.Consumer", self.broker.consumer)
        patch("worker.kafka.retry_changelog.Consumer", self.broker.consumer)

    def start(self) -> UploadsConsumer:
        for member, client in list(self.broker.members.get(GROUP, {}).items()):
            client.group_owns.clear()  # killed: it says nothing more
            self.broker.leave(GROUP, member)
        connection = {"bootstrap.servers": "nowhere:1"}
        retries = RetryChangelog(
            changelog_config(connection, GROUP),
            RETRY,
            clock=lambda: self.now,
            wall_ms=lambda: 0,
            longest=60.0,
            admin=self.broker.admin(),
        )
        self.consumer = UploadsConsumer(
            consumer_config(connection, GROUP, "consumer"), UPLOADS, start="earliest",
            clock=lambda: self.now, wall_ms=lambda: 0, metrics=Metrics(), retries=retries,
            ids=TopicIds(connection, [UPLOADS, RETRY], clock=lambda: self.now, admin=self.broker.admin()),
            on_begun=self.begun.append, on_leaving=self.leaving,
        )  # fmt: skip
        count = len(self.begun)
        self.consumer.pause()  # nothing is read by the way

        def all_begun() -> bool:
            assert self.consumer.poll(1, 0) == []
            return len(self.begun) == count + 2

        wait_for("all have begun", all_begun)
        self.consumer.resume()
        return self.consumer

    def give_up(self, partition: int, lost: bool) -> None:
        client = self.consumer._consumer
        client.take_away({partition}, "lost" if lost else "revoke")

    def stored(self, partition: int) -> tuple[int, str]:
        return self.broker.committed.get((GROUP, UPLOADS, partition), (0, ""))


@pytest.fixture(params=["fake", "real"])
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Side:
    return FakeSide() if request.param == "fake" else RealSide(monkeypatch.setattr)


def test_records_come_once_and_in_order(side: Side) -> None:
    """Each partition's by offset, under the epoch with which it began."""
    consumer = side.start()
    records = side.read(10)
    assert [(r.partition, r.offset, r.value) for r in records] == [
        (p, n, b"%d" % n) for p in range(2) for n in range(5)
    ]
    epochs = {begun.partition: begun.epoch for begun in side.begun}
    assert {r.partition: r.epoch for r in records} == epochs
    assert consumer.partitions == [0, 1]
    assert consumer.waiting == {}
    assert consumer.poll(100, 0) == []


def test_what_is_done_out_of_order_is_not_read_again(side: Side) -> None:
    """A commit has the lowest offset that is not done, and those above it that are."""
    consumer = side.start()
    for record in side.read(10):
        if record.partition == 0 and record.offset in (0, 2, 3):
            consumer.done(record)
    consumer.commit()
    position, metadata = side.stored(0)
    assert (position, decode_done(position, metadata)) == (1, {2, 3})
    side.start()
    assert [(r.partition, r.offset) for r in side.read(7)] == [(0, 1), (0, 4), *((1, n) for n in range(5))]
    assert side.begun[-2].position == 1


def test_nothing_is_committed_that_is_not_done(side: Side) -> None:
    """Reading moves nothing."""
    consumer = side.start()
    side.read(10)
    consumer.commit()
    assert [side.stored(p)[0] for p in range(2)] == [0, 0]


def test_a_new_owner_knows_whether_the_last_one_left_in_order(side: Side) -> None:
    """One more life for each owner that began to encode at the same position and did not; none after one
    that did."""
    for lives in range(3):
        consumer = side.start()
        assert {begun.deaths for begun in side.begun[-2:]} == {lives}
        side.read(10)
        for partition in (0, 1):
            consumer.encoding(partition)
        consumer.commit()
    consumer.commit(leaving={0, 1})
    side.start()
    assert {begun.deaths for begun in side.begun[-2:]} == {0}


def test_an_old_epoch_owns_nothing_and_does_nothing(side: Side) -> None:
    """What comes back after the partition went and returned is dropped."""
    consumer = side.start()
    old = next(record for record in side.read(10) if record.partition == 0)
    assert consumer.owns(0, old.epoch)
    side.give_up(0, lost=True)
    assert not consumer.owns(0, old.epoch)
    consumer.done(old)
    side.start()
    assert side.consumer.position(0) == 0


@pytest.mark.parametrize("lost", [True, False])
def test_partitions_that_go_are_announced_first(side: Side, lost: bool) -> None:
    """With whether they are lost already; the others stay."""
    consumer = side.start()
    side.give_up(1, lost)
    assert side.left == [({1}, lost)]
    assert consumer.partitions == [0]


def test_a_paused_consumer_brings_nothing(side: Side) -> None:
    """Until it is resumed, from where it was."""
    consumer = side.start()
    consumer.pause()
    assert consumer.paused
    assert consumer.poll(100, 0) == []
    consumer.resume()
    assert len(side.read(10)) == 10


def test_an_upload_that_was_handed_over_is_done_already(side: Side) -> None:
    """The end of its retry moves no offset, whatever number it has."""
    consumer = side.start()
    record = side.read(10)[0]
    consumer.done(Record(0, record.epoch, record.offset, b"k", b"v", 7, handed_over=True))
    assert consumer.position(0) == 0


def test_a_snapshot_says_what_a_transaction_commits(side: Side) -> None:
    """Partitions with something new, and those that are named; with its mark. What became of it is noted."""
    consumer = side.start()
    consumer.commit()
    records = side.read(10)
    assert not consumer.uncommitted
    consumer.done(records[0])
    assert consumer.uncommitted
    snapshot = consumer.snapshot("m-1", set(), set())
    ((partition, epoch, (offset, metadata)),) = snapshot.states
    assert (partition, epoch, offset, mark_of(metadata)) == (0, records[0].epoch, 1, "m-1")
    consumer.committed(snapshot)
    assert not consumer.uncommitted
    consumer.not_committed(snapshot)
    assert consumer.uncommitted
    named = consumer.snapshot("m-2", {1}, {0})
    assert {p: mark_of(metadata) for p, _, (_, metadata) in named.states} == {0: "m-2", 1: "m-2"}
