"""worker.kafka.delivery: at-least-once delivery; rounds, and what an acknowledgement or a refusal does."""

from __future__ import annotations

import dataclasses

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.support.fake_clients import FakeProducer
from tests.support.fake_kafka import FakeBroker
from tests.support.fake_uploads import FakeUploadsConsumer
from worker.errors import StartError
from worker.kafka.at_least_once import ANSWER, ROUND_PATIENCE, AtLeastOnce
from worker.kafka.client_config import producer_config
from worker.kafka.delivery import STEP, Result
from worker.messages.headers import VALUE_OMITTED, text_header
from worker.messages.record import Record
from worker.telemetry.metrics import Metrics


class Bench:
    """Four partitions, of which everything below offset 1 is done; the broker answers when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broker = FakeBroker({"uploads": 4, "tags": 4, "retries": 4, "embeddings": 4})
        self.broker.acknowledges = False
        monkeypatch.setattr("worker.kafka.at_least_once.Producer", self.broker.producer)
        self.now = 0.0
        self.consumer = FakeUploadsConsumer({p: [] for p in range(4)}, broker=self.broker)
        for partition in range(4):
            self.consumer.stored[partition] = 1, ""
            self.consumer.assign(partition, [])
        self.publisher = AtLeastOnce(
            producer_config({"bootstrap.servers": "b:1"}), "uploads", self.consumer, interval=0.0,  # type: ignore[arg-type]
            metrics=Metrics(), clock=lambda: self.now,
        )  # fmt: skip
        self.producer: FakeProducer = self.publisher._producer  # type: ignore[assignment]

    @property
    def safe(self) -> list[int]:
        """Offsets of what may be committed, in the order in which it became safe."""
        return [offset for _, offset in self.consumer.finished]

    def record(self, offset: int, partition: int = 0) -> Record:
        record = Record(partition, 1, offset, b"k", b"v", 7)
        self.consumer.take(record)
        return record

    def publish(self, offset: int, value: bytes = b"v", partition: int = 0) -> None:
        self.publisher.publish(Result("tags", b"k", value, self.record(offset, partition)))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_result_is_safe_when_it_is_acknowledged(bench: Bench) -> None:
    """Not when it is handed over; and it says where it came from."""
    bench.publish(5)
    bench.publisher.run_once()
    ((_, _, sent, _),) = bench.producer.open
    headers = sent.headers
    assert (bench.safe, bench.publisher.waiting) == ([], 1)
    assert dict(headers)["source-topic"] == b"uploads"
    assert dict(headers)["source-offset"] == b"5"
    bench.producer.answer()
    assert (bench.safe, bench.publisher.waiting) == ([5], 0)


def test_an_upload_of_several_results_is_done_with_the_last(bench: Bench) -> None:
    """A tag and its embedding: the offset is safe when both are acknowledged, in whatever order; also when
    one of them had to be sent again without its value."""
    record = bench.record(5)
    large = Result("embeddings", b"k", b"x" * 100, record)
    bench.publisher.publish(Result("tags", b"k", b"v", record), large)
    bench.publisher.run_once()
    first, second = bench.producer.open
    bench.producer.open[:] = [first]
    bench.producer.answer()
    assert bench.safe == []
    bench.producer.open[:] = [second]
    bench.producer.answer(KafkaError.MSG_SIZE_TOO_LARGE)
    assert bench.safe == []
    bench.publisher.run_once()
    bench.producer.answer(KafkaError.MSG_SIZE_TOO_LARGE)  # once more, alone
    assert bench.safe == []
    bench.publisher.run_once()
    bench.producer.answer()
    assert bench.safe == [5]


def test_a_retry_that_is_due_before_its_record_is_safe(bench: Bench) -> None:
    """The offset is done with the first retry's record, whatever the tries after it have added meanwhile."""
    record = bench.record(5)
    bench.publisher.publish(Result("retries", b"k", b"v", record))
    bench.publisher.run_once()
    later = dataclasses.replace(record, handed_over=True)
    bench.publisher.publish(Result("tags", b"k", b"v", later), Result("retries", b"k", None, later))
    bench.now += ROUND_PATIENCE
    bench.publisher.run_once()
    assert len(bench.producer.open) == 3
    bench.producer.answer()
    assert bench.safe == [5]


def test_rounds_keep_their_order_and_wait_for_one_another(bench: Bench) -> None:
    """What comes during a round goes with the next one, or when the round takes too long."""
    bench.publish(1)
    bench.publisher.run_once()
    bench.publish(2)
    bench.publish(3)
    bench.publisher.run_once()
    assert len(bench.producer.open) == 1
    bench.producer.answer()
    bench.publisher.run_once()
    assert len(bench.producer.open) == 2
    bench.publish(4)
    bench.now += ROUND_PATIENCE
    bench.publisher.run_once()
    assert len(bench.producer.open) == 3
    bench.producer.answer()
    assert bench.safe == [1, 2, 3, 4]


def test_results_of_lost_partitions_are_dropped_before_they_leave(bench: Bench) -> None:
    """Those that are not handed over yet are forgotten; the other partitions' stay."""
    bench.publish(1)
    bench.publisher.run_once()
    bench.publish(2, partition=3)
    bench.publish(4)
    bench.publisher.leave({3}, lost=True)
    assert bench.publisher.waiting == 2
    assert bench.publisher.finish(1.0)
    assert bench.safe == [1, 4]
    assert bench.publisher.waiting_bytes == 0


def test_a_revocation_commits_what_is_safe_by_then(bench: Bench) -> None:
    """Everything that was published is acknowledged before the offsets are committed."""
    bench.publish(1)
    bench.publish(2)
    bench.publisher.leave({0}, lost=False)
    assert bench.consumer.stored[0] == (3, "")


def test_no_call_waits_for_longer_than_a_second(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is away: at the end neither acknowledgements nor the last commit are waited for in one call,
    and for the commit a second at most."""
    waited: list[float] = []

    def away(timeout: float) -> int:
        waited.append(timeout)
        bench.now += timeout
        return 1

    def poll(limit: int, timeout: float) -> list[Record]:
        assert away(timeout)
        return []

    monkeypatch.setattr(bench.producer, "flush", away)
    monkeypatch.setattr(bench.consumer, "poll", poll)
    monkeypatch.setattr(bench.consumer, "committing", True)
    bench.publish(1)
    assert not bench.publisher.finish(3.5)
    assert max(waited) <= 1.0
    assert bench.now == pytest.approx(3.5 + STEP, abs=2 * ANSWER)


def test_a_dead_letter_that_is_too_large_goes_without_its_value(bench: Bench) -> None:
    """It says that the value was left out; it is safe when that is acknowledged."""
    bench.publish(1, b"x" * 100)
    for _ in range(2):  # with others, and alone
        bench.publisher.run_once()
        bench.producer.answer(KafkaError.MSG_SIZE_TOO_LARGE)
    assert bench.safe == []
    bench.publisher.run_once()
    ((_, _, sent, _),) = bench.producer.open
    assert sent.value is None
    assert VALUE_OMITTED in sent.headers
    bench.producer.answer()
    assert bench.safe == [1]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, StartError),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaException),
    ],
)
def test_a_refused_result_ends_the_worker(bench: Bench, code: int, error: type[Exception]) -> None:
    """Nothing may be published after a result that was not: its offset stays uncommitted."""
    bench.publish(1)
    bench.publisher.run_once()
    bench.producer.answer(code)
    assert bench.safe == []
    with pytest.raises(error):
        bench.publisher.run_once()


def test_what_delivery_rests_on_cannot_be_configured_away() -> None:
    """Idempotence, all acknowledgements and no give-up by time, whatever else is set."""
    config = producer_config({"bootstrap.servers": "b:1", "compression.type": "zstd", "linger.ms": "9"})
    assert (config["enable.idempotence"], config["acks"], config["message.timeout.ms"]) == (True, "all", 0)
    assert (config["compression.type"], config["linger.ms"]) == ("zstd", "9")


@pytest.mark.parametrize("text", ["plain", "a\nb", "\x00", "ä", "x" * 10_000])
def test_headers_are_one_bounded_line(text: str) -> None:
    """Printable text of at most 500 characters."""
    name, value = text_header("error-message", text)
    assert name == "error-message"
    assert value.decode().isprintable()
    assert len(value.decode()) <= 500
