"""worker.kafka.consumer on a stand-in for the Kafka client: whose metadata is sent, and partitions that fall
silent. What a real client and broker do is tested in tests/integration and tests/faults."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.kafka.assignment import BegunPartition, is_member
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.pending_retries import PendingRetries
from worker.kafka.retry_changelog import Pending
from worker.telemetry.metrics import Metrics


class FakeClient:
    """A client with one partition whose log ends at `high`; it notes what it is asked to do."""

    def __init__(self, config: dict[str, Any], **_: object) -> None:
        self.high = 0
        self.calls: list[tuple[str, int]] = []
        self.unstable = False  # an open transaction holds the committed offset back
        self.metadata = b"CGMDv2:" + (3).to_bytes(4, "little") + b"group\0member-1\0\0"

    def subscribe(self, topics: list[str], *, on_assign: Any, on_revoke: Any, **_: object) -> None:
        self.on_assign, self.on_revoke = on_assign, on_revoke

    def close(self) -> None:
        """The group gives one more partition while the client leaves, and takes all."""
        self.on_assign(self, [TopicPartition("uploads", 1)])
        self.on_revoke(self, [TopicPartition("uploads", 0), TopicPartition("uploads", 1)])

    def poll(self, timeout: float) -> None:
        return None

    def consume(self, count: int, timeout: float) -> list[Any]:
        return []

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.unstable:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [TopicPartition("uploads", 0, 7, "")]

    def get_watermark_offsets(self, partition: TopicPartition, **_: object) -> tuple[int, int]:
        return 0, self.high

    def consumer_group_metadata(self) -> bytes:
        return self.metadata

    def seek(self, partition: TopicPartition) -> None:
        self.calls.append(("seek", partition.offset))

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.calls.append(("assign", partitions[0].offset))

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        pass

    def pause(self, partitions: list[TopicPartition]) -> None:
        pass

    def resume(self, partitions: list[TopicPartition]) -> None:
        pass


class FakeRetries:
    """Nothing waits: a partition is restored at once."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int, PendingRetries[Pending]]] = []
        self.times = 0  # that a restoration was begun

    def begin(self, partition: int, epoch: int) -> None:
        self.times += 1
        self.begun.append((partition, epoch, PendingRetries()))

    def drop(self, partition: int) -> None:
        pass

    def close(self) -> None:
        pass

    def poll(self) -> list[tuple[int, int, PendingRetries[Pending]]]:
        begun, self.begun = self.begun, []
        return begun


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.kafka.consumer.Consumer", FakeClient)
        self.now = 100.0
        self.begun: list[BegunPartition] = []
        self.left: list[tuple[set[int], bool]] = []
        self.retries = FakeRetries()
        self.consumer = UploadsConsumer(
            {}, "uploads", start="earliest", clock=lambda: self.now, wall_ms=lambda: 0, metrics=Metrics(),
            retries=self.retries, on_begun=self.begun.append,  # type: ignore[arg-type]
            on_leaving=lambda partitions, lost: self.left.append((partitions, lost)),
        )  # fmt: skip
        self.client: FakeClient = self.consumer._consumer  # type: ignore[assignment]
        self.assigned()
        self.client.calls.clear()

    def assigned(self) -> None:
        """The group gives the partition; a few polls later it has begun."""
        self.client.on_assign(self.client, [TopicPartition("uploads", 0)])
        for _ in range(3):
            self.consumer.poll(10, 0.0)

    def passes(self, seconds: float) -> None:
        """Time in which the loop polls and reports once a second, and nothing comes."""
        for _ in range(int(seconds)):
            self.now += 1.0
            self.consumer.poll(10, 0.0)
            self.consumer.report()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_partition_begins_where_the_last_owner_ended(bench: Bench) -> None:
    """After its retries are there: the committed offset, and a new epoch."""
    (begun,) = bench.begun
    assert (begun.partition, begun.position, len(begun.pending)) == (0, 7, 0)
    assert bench.consumer.owns(0, begun.epoch)


def test_retries_are_read_when_the_last_owner_has_no_open_transaction(bench: Bench) -> None:
    """A transaction of the last owner may still be committed, with the end of a retry in it: while it is open
    the committed offset is not told, and nothing is restored; the retries are read after that, once."""
    bench.client.unstable = True
    bench.assigned()
    bench.passes(20)
    assert (bench.retries.times, len(bench.begun)) == (1, 1)  # those of the first assignment
    bench.client.unstable = False
    bench.passes(3)
    assert (bench.retries.times, len(bench.begun)) == (2, 2)


def test_a_silent_partition_with_records_is_set_going_again(bench: Bench) -> None:
    """First by a seek, then by assigning it anew, and less and less often where nothing comes of it."""
    bench.client.high = 9
    bench.passes(4)
    assert bench.client.calls == []
    bench.passes(2)
    assert bench.client.calls == [("seek", 7)]
    bench.passes(11)
    assert bench.client.calls == [("seek", 7), ("assign", 7)]
    bench.passes(1800)
    assert len(bench.client.calls) < 15


def test_a_partition_without_records_is_left_alone(bench: Bench) -> None:
    """Its silence is as it should be."""
    bench.client.high = 7
    bench.passes(60)
    assert bench.client.calls == []


def test_after_a_sleep_the_group_comes_first(bench: Bench) -> None:
    """What came while this process slept may be a successor's to read: assigned anew, the partition would not
    be reported as lost. Silence counts from the next look at the group on."""
    bench.passes(6)  # silent once already: the next remedy would be to assign it anew
    bench.client.high = 9
    bench.now += 20.0
    bench.consumer.report()
    assert bench.client.calls == []
    bench.passes(5)
    assert bench.client.calls == []
    bench.passes(2)
    assert bench.client.calls == [("seek", 7)]


def test_a_paused_partition_is_silent_by_itself(bench: Bench) -> None:
    """The time in which it was paused does not count."""
    bench.client.high = 9
    bench.consumer.pause()
    bench.passes(60)
    bench.consumer.resume()
    bench.passes(4)
    assert bench.client.calls == []


def test_offsets_are_never_sent_without_a_member(bench: Bench) -> None:
    """Brokers take offsets without a membership, and fence nobody then: not before, not after one."""
    assert bench.consumer.snapshot("m", {0}, set()) is not None
    for generation, member in ((-1, b""), (3, b""), (-1, b"member-1")):
        bench.client.metadata = (
            b"CGMDv2:" + generation.to_bytes(4, "little", signed=True) + b"group\0" + member + b"\0\0"
        )
        assert bench.consumer.snapshot("m", {0}, set()) is None
    with pytest.raises(ValueError, match="does not know"):
        is_member(b"CGMDv9:....")


def test_a_process_that_slept_looks_at_the_group_first(bench: Bench) -> None:
    """Three seconds after the last poll the metadata may be that of a new membership."""
    bench.now += 3.1
    assert bench.consumer.snapshot("m", {0}, set()) is None
    bench.consumer.poll(10, 0.0)
    snapshot = bench.consumer.snapshot("m", {0}, set())
    assert snapshot is not None
    assert [(p.partition, p.offset) for p in snapshot.offsets] == [(0, 7)]


def test_while_the_client_closes_nothing_is_asked_of_it(bench: Bench) -> None:
    """All was committed before: partitions that go are dropped without a commit, one that comes is not begun.
    A worker that asked its client something at that moment did not end."""
    bench.consumer.close()
    assert bench.left == [({0}, True)]
    assert bench.retries.times == 1
