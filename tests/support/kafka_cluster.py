"""The clusters that worker tests run on: librdkafka's mock, and Apache Kafka where there is one."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.support import between
from tests.support.waiting import PATIENCE, wait_for
from worker.demo.backends import JavaKafka, Kafka, MockKafka, RunningKafka, find_java, make_topics
from worker.errors import StartError
from worker.kafka.topic_ids import id_text

_quiet = logging.getLogger("tests.kafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False
PARTITIONS = 4  # the mock cluster gives each topic four
# members of a KIP-848 group hear of a change with their next heartbeat, every 5 s by default
PROMPT = {
    "group.consumer.heartbeat.interval.ms": "200",
    "group.consumer.min.heartbeat.interval.ms": "200",
    "log.cleaner.backoff.ms": "500",  # 15 s by default
}


@contextlib.contextmanager
def mock() -> Iterator[Kafka]:
    with MockKafka() as kafka:
        yield kafka


@contextlib.contextmanager
def apache() -> Iterator[Kafka]:
    """Apache Kafka: `TEST_KAFKA_BOOTSTRAP`, or one for the whole run from `KAFKA_HOME`; else the test is
    skipped."""
    bootstrap, home = os.environ.get("TEST_KAFKA_BOOTSTRAP"), os.environ.get("KAFKA_HOME")
    if bootstrap:
        yield RunningKafka(bootstrap)
    elif home and find_java():
        with between.this_run().served("kafka", lambda: _started(Path(home))) as address:
            yield RunningKafka(address)
    else:
        pytest.skip("no Apache Kafka: set KAFKA_HOME (with Java 17 installed) or TEST_KAFKA_BOOTSTRAP")


@contextlib.contextmanager
def _started(home: Path) -> Iterator[str]:
    with JavaKafka(home, options=PROMPT) as kafka:
        yield kafka.bootstrap


def make_anew(bootstrap: str, topic: str, partitions: int = PARTITIONS) -> None:
    """Delete a topic of a real broker, and make it once more; what is sent from here on is in the new one."""
    admin = AdminClient({"bootstrap.servers": bootstrap}, logger=_quiet)
    before = topic_id(admin, topic)
    admin.delete_topics([topic])[topic].result(30)

    def made() -> bool:
        with contextlib.suppress(StartError):  # it is not gone everywhere yet
            make_topics(bootstrap, [topic], partitions)
            return True
        return False

    wait_for("it can be made again", made)
    # the controller has answered; for a moment the broker goes on taking records into the old one
    wait_for("the broker knows of it", lambda: topic_id(admin, topic) not in (before, ""))


def topic_id(admin: AdminClient, topic: str) -> str:
    """As commits have it; empty while the broker knows of no such topic."""
    try:
        return id_text(admin.describe_topics(TopicCollection([topic]))[topic].result(PATIENCE).topic_id)
    except KafkaException:
        return ""


class Topics:
    """Topics of a test's own, and what goes in and comes out of them."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.bootstrap = kafka.bootstrap
        # the mock cluster stores no offsets that are sent in a transaction
        self.delivery = "at-least-once" if isinstance(kafka, MockKafka) else "exactly-once"
        run = uuid.uuid4().hex[:8]
        self.uploads, self.tags = f"uploads-{run}", f"tags-{run}"
        self.retry, self.dlq = f"{self.uploads}.retry", f"{self.uploads}.dlq"
        self.embeddings = f"embeddings-{run}"
        self.group = f"group-{run}"
        names = [self.uploads, self.tags, self.retry, self.dlq, self.embeddings]
        kafka.create_topics(names, PARTITIONS)
        self._connect()

    def _connect(self) -> None:
        self._producer = Producer({"bootstrap.servers": self.bootstrap}, logger=_quiet)
        # no member of the group
        self._observer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": self.group}, logger=_quiet
        )

    def reconnected(self) -> Topics:
        """The same topics with a client that knows them as they are now."""
        made = copy.copy(self)
        made._connect()
        return made

    def send(
        self,
        key: bytes | None,
        value: bytes | None,
        partition: int = 0,
        headers: dict[str, bytes] | None = None,
    ) -> None:
        self._producer.produce(self.uploads, value, key, partition, headers=headers)
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(PATIENCE) == 0

    def reader(self, topic: str) -> Reader:
        return Reader(self.bootstrap, topic, wait_ms=50 if isinstance(self.kafka, MockKafka) else 500)

    def committed(self, topic: str | None = None) -> dict[int, tuple[int, str]]:
        """What the worker's group has committed, of the uploads: partition → (offset, metadata)."""
        asked = [TopicPartition(topic or self.uploads, p) for p in range(PARTITIONS)]
        found = self._observer.committed(asked, timeout=PATIENCE)
        return {p.partition: (p.offset, p.metadata or "") for p in found if p.offset >= 0}


class Reader:
    """Everything in one topic, from its start, as `read_committed` readers see it.

    Args:
        wait_ms: that a broker keeps a question without an answer. The mock cluster keeps it until then, also
            when there is an answer.
    """

    def __init__(self, bootstrap: str, topic: str, wait_ms: int = 500) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": uuid.uuid4().hex,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": wait_ms,
            },
            logger=_quiet,
        )
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
        self.messages: list[Message] = []

    def read(self, seconds: float = 0.3) -> list[Message]:
        """What is there by now."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for message in self._consumer.consume(1000, 0.1):
                if message.error() is None:
                    self.messages.append(message)
        return self.messages

    def last(self) -> dict[str, Message]:
        """The last record of each key."""
        return {(m.key() or b"").decode(errors="replace"): m for m in self.messages}

    def close(self) -> None:
        self._consumer.close()


def headers_of(message: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in (message.headers() or []) if isinstance(value, bytes)}
