"""Records that Kafka does not take: each is found and replaced, in both kinds of delivery, and holds up no
other. A broker refuses a whole request for one record in it, or for all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_kafka import FakeBroker
from tests.support.fake_uploads import FakeUploadsConsumer
from worker.errors import StartError
from worker.kafka.at_least_once import AtLeastOnce
from worker.kafka.client_config import producer_config, transaction_config
from worker.kafka.delivery import KEY_KEPT, Result, cut_or_raise, smaller
from worker.kafka.exactly_once import ExactlyOnce
from worker.messages.headers import VALUE_OMITTED
from worker.messages.record import Record
from worker.telemetry.metrics import Metrics

LIMIT = 50  # max.message.bytes of the topic `tags`
CONNECTION = {"bootstrap.servers": "b:1"}
METRICS = Metrics()  # of all


class Bench:
    """One delivery with a broker; a tag that is refused becomes a record of the topic `dlq`."""

    def __init__(self, exactly_once: bool, message_max_bytes: int = 1 << 20) -> None:
        self.broker = FakeBroker({"uploads": 2, "tags": 2, "dlq": 2})
        self.broker.limits["tags"] = LIMIT
        self.consumer = FakeUploadsConsumer({0: [], 1: []}, broker=self.broker)
        for partition in range(2):
            self.consumer.assign(partition, [])
        self.now = 0.0
        kind = ExactlyOnce if exactly_once else AtLeastOnce
        base = transaction_config(CONNECTION, "id") if exactly_once else producer_config(CONNECTION)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("worker.kafka.at_least_once.Producer", self.broker.producer)
            self.delivery: Any = kind(
                {**base, "message.max.bytes": message_max_bytes}, "uploads", self.consumer,  # type: ignore[arg-type]
                interval=0.0, metrics=METRICS, clock=lambda: self.now,
            )  # fmt: skip
        self.delivery.on_refused = self.refused
        self.refusals: list[int] = []

    def refused(self, result: Result, error: KafkaError) -> Sequence[Result]:
        if result.topic == "dlq":
            return cut_or_raise(result, error)
        self.refusals.append(result.source.offset)
        return [Result("dlq", result.key, b"", result.source)]

    def publish(self, offset: int, size: int, partition: int = 0) -> None:
        record = Record(partition, 1, offset, b"k", b"v", 7)
        self.consumer.take(record)
        self.delivery.publish(Result("tags", b"", b"x" * size, record))

    def run(self, rounds: int = 400) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("worker.kafka.exactly_once.Producer", self.broker.producer)
            for _ in range(rounds):
                self.delivery.run_once()
                self.now += 0.3
                if not self.delivery.waiting:
                    return

    def published(self, topic: str) -> list[tuple[int, int]]:
        """Source partition and offset of each, in the order in which readers see them."""
        headers = [dict(record.headers) for name, _, record in self.broker.history if name == topic]
        return [(int(h["source-partition"]), int(h["source-offset"])) for h in headers]


@pytest.mark.parametrize("exactly_once", [True, False])
@given(sizes=st.lists(st.integers(0, 2 * LIMIT), max_size=12))
def test_what_fits_is_published_and_what_does_not_is_replaced(exactly_once: bool, sizes: list[int]) -> None:
    """Each upload has one result: its tag if that alone fits, else what replaces it; all are done."""
    bench = Bench(exactly_once)
    for offset, size in enumerate(sizes):
        bench.publish(offset // 2, size, partition=offset % 2)
    bench.run()
    too_large = {(i % 2, i // 2) for i, size in enumerate(sizes) if size > LIMIT}
    everything = {(i % 2, i // 2) for i in range(len(sizes))}
    assert Counter(bench.published("tags")) == Counter(everything - too_large)
    assert Counter(bench.published("dlq")) == Counter(too_large)
    assert bench.delivery.waiting == bench.delivery.waiting_bytes == 0
    assert set(bench.consumer.finished) == everything


@pytest.mark.parametrize("exactly_once", [True, False])
def test_what_the_client_does_not_take_is_replaced_too(exactly_once: bool) -> None:
    """`message.max.bytes` of the producer: the call itself fails."""
    bench = Bench(exactly_once, message_max_bytes=20)
    for offset, size in enumerate((5, 40, 5)):
        bench.publish(offset, size)
    bench.run()
    assert bench.published("tags") == [(0, 0), (0, 2)]
    assert bench.published("dlq") == [(0, 1)]
    assert bench.broker.calls.count("abort") == 0


@pytest.mark.parametrize("exactly_once", [True, False])
def test_a_dead_letter_is_cut_until_it_fits_and_else_the_worker_ends(exactly_once: bool) -> None:
    """A topic that takes nothing at all is a mistake that only an operator can correct."""
    bench = Bench(exactly_once)
    bench.broker.limits["dlq"] = 300
    record = Record(0, 1, 0, b"k" * 1000, b"v" * 2000, 7)
    bench.consumer.take(record)
    bench.delivery.publish(Result("dlq", record.key, record.value, record))
    bench.run()
    ((_, _, sent),) = bench.broker.history
    assert (sent.key, sent.value) == (b"k" * KEY_KEPT, None)
    headers = dict(sent.headers)
    assert VALUE_OMITTED[0] in headers
    assert b"1000" in headers["key-cut"]
    bench.broker.limits["dlq"] = 10
    record = Record(0, 1, 1, b"k" * 1000, b"v" * 2000, 7)
    bench.consumer.take(record)
    bench.delivery.publish(Result("dlq", record.key, record.value, record))
    with pytest.raises(StartError, match=r"max\.message\.bytes"):
        bench.run()


@given(st.none() | st.binary(max_size=600), st.none() | st.binary(max_size=600))
def test_cutting_comes_to_an_end_and_always_makes_it_smaller(key: bytes | None, value: bytes | None) -> None:
    """Two cuts at most; what is left is a key of a bounded size."""
    result: Result | None = Result("dlq", key, value, Record(0, 1, 0, key, value, 7))
    steps = 0
    while result is not None:
        last, result = result, smaller(result)
        steps += result is not None
    assert steps <= 2
    assert last.value is None
    assert len(last.key or b"") <= KEY_KEPT
