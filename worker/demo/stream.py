"""Events → Kafka, results ← Kafka: the demo's own clients, on one thread."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from worker.demo.uploads import DELETED, TAGGED, Event, Ledger, UploadResult
from worker.errors import StartError, WorkerError
from worker.messages.tag import Tag

BUSY = 128  # uploads on their way at once: two batches, so the encoder never waits and latency stays short
RATE_SECONDS = 5.0
_quiet = logging.getLogger("worker.demo.demo")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Stream:
    """Sends the events of a ledger and reads what becomes of them; a context manager.

    Args:
        kafka: librdkafka's properties that connect.
        topics: uploads, tags and dead letters.
    """

    def __init__(self, kafka: Mapping[str, Any], topics: tuple[str, str, str], ledger: Ledger) -> None:
        self._uploads, self._tags, self._dead = topics
        self._ledger = ledger
        self._next = 0
        self._failed: KafkaError | None = None
        self._arrivals: deque[float] = deque()
        self._started = self._ended = 0.0
        self.busy_rate = 0.0  # results per second while as much was on its way as may be
        self._producer = Producer({**kafka, "linger.ms": 2, "acks": "all"}, logger=_quiet)
        self._consumer = Consumer(
            {
                **kafka,
                "group.id": f"{self._uploads}-reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
            },
            logger=_quiet,
        )

    def __enter__(self) -> Stream:
        try:
            parts = [
                TopicPartition(topic, partition, 0)
                for topic in (self._tags, self._dead)
                for partition in self._consumer.list_topics(topic, timeout=20).topics[topic].partitions
            ]
            self._consumer.assign(parts)
        except KafkaException as error:
            raise StartError(f"Kafka does not answer: {error.args[0].str()}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.purge()
        self._consumer.close()

    @property
    def sent(self) -> int:
        return self._next

    def run_once(self, wait: float) -> None:
        """Send what may be sent, and read for `wait` seconds at most.

        Raises:
            WorkerError: Kafka refuses an upload.
        """
        self._send()
        self._producer.poll(0)
        if self._failed is not None:
            raise WorkerError(f"Kafka did not take an upload: {self._failed.str()}")
        for message in self._consumer.consume(200, wait):
            if message.error() is None:
                self._read(message)

    def _send(self) -> None:
        self._started = self._started or time.monotonic()
        events = self._ledger.events
        while self._next < len(events) and self._may_send(events[self._next]):
            if events[self._next].calm and not self.busy_rate:
                self.busy_rate = self._next / (self._ended - self._started)
            self._produce(self._next, events[self._next])
            self._next += 1

    def _may_send(self, event: Event) -> bool:
        if event.after is not None and not self._ledger.is_done(event.after):
            return False
        on_the_way = self._next - self._ledger.done
        return on_the_way < (1 if event.calm else BUSY)

    def _produce(self, number: int, event: Event) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failed = error
                return
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            self._ledger.sent(number, (partition, offset))

        self._producer.produce(self._uploads, key=event.key, value=event.value, on_delivery=delivered)

    def _read(self, message: Message) -> None:
        headers = _headers(message)
        position = int(headers["source-partition"]), int(headers["source-offset"])
        _, written = message.timestamp()
        seconds = max(0, written - int(headers["source-timestamp"])) / 1000
        value = message.value()
        if message.topic() == self._dead:
            reason = headers["error-message"]
            result = UploadResult(headers["error-code"], seconds, value, message=reason)
        elif value is None:
            result = UploadResult(DELETED, seconds, None)
        else:
            result = UploadResult(TAGGED, seconds, value, Tag.from_json(value))
        self._ledger.ended(position, result)
        self._ended = time.monotonic()
        self._arrivals.append(self._ended)

    def rate(self) -> float:
        """Results per second, of the last seconds."""
        now = time.monotonic()
        while self._arrivals and self._arrivals[0] < now - RATE_SECONDS:
            self._arrivals.popleft()
        since = min(RATE_SECONDS, max(now - self._started, 0.1))
        return len(self._arrivals) / since


def _headers(message: Message) -> dict[str, str]:
    pairs = dict(message.headers() or [])
    return {n: value.decode() if isinstance(value, bytes) else str(value) for n, value in pairs.items()}
