"""worker.kafka.consumer on a stand-in for the Kafka client: whose metadata is sent, and partitions that fall
silent. What a real client and broker do is tested in tests/integration and tests/faults."""

from __future__ import annotations

import pytest

from tests.support.fake_clients import FakeConsumer
from tests.support.fake_kafka import FakeBroker, Transaction
from worker.kafka.assignment import BegunPartition, is_member
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.pending_retries import PendingRetries
from worker.kafka.retry_changelog import Pending
from worker.telemetry.metrics import Metrics


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
    """A consumer whose group has committed offset 7 of the only partition; the log ends there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broker = FakeBroker({"uploads": 1})
        monkeypatch.setattr("worker.kafka.consumer.Consumer", self.broker.consumer)
        self.records(7)
        self.broker.committed["group", "uploads", 0] = 7, ""
        self.now = 100.0
        self.begun: list[BegunPartition] = []
        self.left: list[tuple[set[int], bool]] = []
        self.retries = FakeRetries()
        self.consumer = UploadsConsumer(
            {"group.id": "group"}, "uploads", start="earliest", clock=lambda: self.now, wall_ms=lambda: 0,
            metrics=Metrics(), retries=self.retries, on_begun=self.begun.append,  # type: ignore[arg-type]
            on_leaving=lambda partitions, lost: self.left.append((partitions, lost)),
        )  # fmt: skip
        self.client: FakeConsumer = self.consumer._consumer  # type: ignore[assignment]
        for _ in range(4):
            self.consumer.poll(10, 0.0)
        self.client.moves.clear()

    def records(self, count: int) -> None:
        for _ in range(count):
            self.broker.send("uploads", b"{}")

    def passes(self, seconds: float) -> None:
        """Time in which the loop polls and reports once a second."""
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
    held_back = {("group", "uploads", 0): (9, "")}
    bench.broker.open["last owner"] = Transaction(offsets=held_back)
    bench.client.take_away({0})
    bench.passes(20)
    assert (bench.retries.times, len(bench.begun)) == (1, 1)  # those of the first assignment
    bench.broker.finish("last owner", commit=False)
    bench.passes(3)
    assert (bench.retries.times, len(bench.begun)) == (2, 2)


def test_a_silent_partition_with_records_is_set_going_again(bench: Bench) -> None:
    """First by a seek, then by assigning it anew, and less and less often where nothing comes of it."""
    bench.client.silent = True
    bench.records(2)
    bench.passes(4)
    assert bench.client.moves == []
    bench.passes(2)
    assert bench.client.moves == [("seek", 7)]
    bench.passes(11)
    assert bench.client.moves == [("seek", 7), ("assign", 7)]
    bench.passes(1800)
    assert len(bench.client.moves) < 15


def test_a_partition_without_records_is_left_alone(bench: Bench) -> None:
    """Its silence is as it should be."""
    bench.passes(60)
    assert bench.client.moves == []


def test_after_a_sleep_the_group_comes_first(bench: Bench) -> None:
    """What came while this process slept may be a successor's to read: assigned anew, the partition would not
    be reported as lost. Silence counts from the next look at the group on."""
    bench.passes(6)  # silent once already: the next remedy would be to assign it anew
    bench.client.silent = True
    bench.records(2)
    bench.now += 20.0
    bench.consumer.report()
    assert bench.client.moves == []
    bench.passes(5)
    assert bench.client.moves == []
    bench.passes(2)
    assert bench.client.moves == [("seek", 7)]


def test_a_paused_partition_is_silent_by_itself(bench: Bench) -> None:
    """The time in which it was paused does not count."""
    bench.client.silent = True
    bench.records(2)
    bench.consumer.pause()
    bench.passes(60)
    bench.consumer.resume()
    bench.passes(4)
    assert bench.client.moves == []


def test_offsets_are_never_sent_without_a_member(bench: Bench) -> None:
    """Brokers take offsets without a membership, and fence nobody then: not before, not after one."""
    assert bench.consumer.snapshot("m", {0}, set()) is not None
    for generation, member in ((-1, b""), (3, b""), (-1, b"member-1")):
        bench.client.forced_metadata = (
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
    bench.client.while_closing = [1]
    bench.consumer.close()
    assert bench.left == [({0}, True)]
    assert bench.retries.times == 1
