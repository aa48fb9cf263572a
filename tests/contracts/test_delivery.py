"""What the pipeline relies on in delivery: the same tests for the stand-in and both real ones.

The real ones run on the stand-in for Kafka's clients, which tests/contracts/test_kafka.py holds to Apache
Kafka.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fake_kafka import FakeBroker
from tests.support.fake_uploads import GROUP, UPLOADS, FakeDelivery, FakeUploadsConsumer
from worker.kafka.at_least_once import AtLeastOnce
from worker.kafka.client_config import producer_config, transaction_config
from worker.kafka.delivery import Result
from worker.kafka.exactly_once import ExactlyOnce
from worker.kafka.offsets import lives_of
from worker.messages.record import Record
from worker.telemetry.metrics import Metrics

PARTITIONS = 2


class Side:
    """A delivery beside a consumer that owns two partitions."""

    def __init__(self, kind: str, patch: pytest.MonkeyPatch) -> None:
        self.kind = kind
        self.now = 0.0
        self.broker = FakeBroker({UPLOADS: PARTITIONS, "tags": PARTITIONS})
        self.broker.acknowledges = False
        self.consumer = FakeUploadsConsumer({p: [] for p in range(PARTITIONS)}, broker=self.broker)
        for partition in range(PARTITIONS):
            self.consumer.assign(partition, [])
        self.consumer.commit()
        self.delivery: Any = self._delivery(patch)
        self.ended: list[int] = []

    def _delivery(self, patch: pytest.MonkeyPatch) -> Any:
        if self.kind == "fake":
            return FakeDelivery(self.consumer)
        common: dict[str, Any] = {"interval": 0.0, "metrics": Metrics(), "clock": lambda: self.now}
        if self.kind == "at least once":
            patch.setattr("worker.kafka.at_least_once.Producer", self.broker.producer)
            return AtLeastOnce(producer_config({}), UPLOADS, self.consumer, **common)  # type: ignore[arg-type]
        patch.setattr("worker.kafka.exactly_once.Producer", self.broker.producer)
        config = transaction_config({}, "id")
        return ExactlyOnce(config, UPLOADS, self.consumer, **common)  # type: ignore[arg-type]

    def publish(self, offset: int, partition: int = 0) -> None:
        record = Record(partition, 1, offset, b"k", b"v", 7)
        self.consumer.take(record)
        self.delivery.publish(Result("tags", b"k", b"%d" % offset, record))

    def settle(self) -> None:
        """Everything that was published is with the broker, and committed."""
        if self.kind == "fake":
            self.delivery.commit()
            return
        self.broker.acknowledges = True
        for _ in range(6):
            self.delivery.run_once()
            self.now += 1.0
        self.broker.acknowledges = False

    def published(self) -> list[bytes | None]:
        """The values that readers see, in order."""
        if self.kind == "fake":
            return [result.value for result in self.delivery.results]
        return [record.value for topic, _, record in self.broker.history if topic == "tags"]

    def committed(self, partition: int = 0) -> tuple[int, str]:
        """By consumer, or within a transaction."""
        stored = self.consumer.stored[partition]
        found = self.broker.committed.get((GROUP, UPLOADS, partition), stored)
        return max(found, stored)


@pytest.fixture(params=["fake", "at least once", "exactly once"])
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Side:
    return Side(request.param, monkeypatch)


def test_results_are_published_in_order_and_then_committed(side: Side) -> None:
    """Waiting until then, and not after; the offsets move with the results."""
    for offset in range(3):
        side.publish(offset)
    assert (side.delivery.waiting, side.published()) == (3, [])
    assert side.delivery.waiting_bytes > 0
    assert side.committed()[0] == 0
    side.settle()
    assert side.published() == [b"0", b"1", b"2"]
    assert (side.delivery.waiting, side.delivery.waiting_bytes) == (0, 0)
    assert side.committed()[0] == 3


def test_results_of_partitions_that_are_lost_are_dropped(side: Side) -> None:
    """They are their next owner's; those of the others are published."""
    side.publish(0, partition=0)
    side.publish(7, partition=1)
    side.delivery.leave({1}, True)
    del side.consumer.owned[1]
    side.settle()
    assert side.published() == [b"0"]
    assert (side.delivery.waiting, side.delivery.waiting_bytes) == (0, 0)


def test_what_is_published_before_a_revocation_is_there_after_it(side: Side) -> None:
    """With its offset, and with the note that the partition was left in order."""
    side.publish(0)
    side.settle()
    side.publish(1)
    side.delivery.leave({0}, False)
    assert side.published() == [b"0", b"1"]
    assert side.committed()[0] == 2
    assert lives_of(side.committed()[1]) == 0


def test_the_end_commits_everything(side: Side) -> None:
    """`finish` says so, and every partition was left in order."""
    side.publish(0)
    side.settle()
    side.publish(1)
    side.publish(0, partition=1)
    assert side.delivery.finish(5.0)
    assert sorted(map(str, side.published())) == sorted(map(str, [b"0", b"1", b"0"]))
    assert [side.committed(p)[0] for p in range(2)] == [2, 1]
    assert [lives_of(side.committed(p)[1]) for p in range(2)] == [0, 0]
