"""The two sides of the Kafka contracts: the stand-in, and Apache Kafka."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.support.fake_kafka import FakeBroker
from tests.support.waiting import PATIENCE, wait_for
from worker.demo.backends import Kafka
from worker.kafka.client_config import consumer_config, producer_config, reader_config, transaction_config

PARTITIONS = 2
_quiet = logging.getLogger("tests.contracts")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Cluster:
    """Topics and a group of a test's own, and clients with the worker's own properties."""

    def __init__(self, bootstrap: str, consumer: Callable[..., Any], producer: Callable[..., Any]) -> None:
        run = uuid.uuid4().hex[:8]
        self.uploads, self.tags, self.group = f"uploads-{run}", f"tags-{run}", f"group-{run}"
        self.connection = {"bootstrap.servers": bootstrap}
        self._consumer, self._producer = consumer, producer
        self._opened: list[Any] = []

    def reader(self, topic: str, **properties: Any) -> Reader:
        """Reads a topic from its start, outside of any group."""
        config = reader_config(self.connection, "test", wait_ms=10) | properties
        return Reader(self._open(config), topic)

    def admin(self) -> Any:
        return AdminClient(self.connection, logger=_quiet)

    def member(self, *, paused: bool = False, **properties: Any) -> Member:
        client = self._open(consumer_config(self.connection, self.group, "consumer") | properties)
        return Member(client, self.uploads, paused=paused)

    def cut(self, topic: str, partition: int, start: int) -> None:
        """What retention does: the log begins at `start`."""
        here = TopicPartition(topic, partition, start)
        admin = AdminClient(self.connection, logger=_quiet)
        for future in admin.delete_records([here]).values():
            future.result(PATIENCE)

    def _open(self, config: Mapping[str, Any]) -> Any:
        client = self._consumer(config, logger=_quiet)
        self._opened.append(client)
        return client

    def producer(self, **properties: Any) -> Any:
        return self._producer(producer_config(self.connection) | properties, logger=_quiet)

    def transactional(self, name: str = "one") -> Any:
        """A producer under a name of the test's own, ready for transactions."""
        config = transaction_config(self.connection, f"{self.group}-{name}")
        producer = self._producer(config, logger=_quiet)
        producer.init_transactions(PATIENCE)
        return producer

    def close(self) -> None:
        for client in self._opened:
            client.close()


class FakeCluster(Cluster):
    def __init__(self, broker: FakeBroker) -> None:
        super().__init__("nowhere:1", broker.consumer, broker.producer)
        self.cut = broker.cut  # type: ignore[method-assign]
        self.admin = broker.admin  # type: ignore[method-assign]


def fake() -> Cluster:
    broker = FakeBroker({})
    cluster = FakeCluster(broker)
    for topic in (cluster.uploads, cluster.tags):
        broker.logs |= {(topic, partition): [] for partition in range(PARTITIONS)}
    return cluster


def real(kafka: Kafka) -> Cluster:
    cluster = Cluster(kafka.bootstrap, Consumer, Producer)
    kafka.create_topics([cluster.uploads, cluster.tags], PARTITIONS)
    return cluster


class Reader:
    """What readers of a topic see."""

    def __init__(self, client: Any, topic: str) -> None:
        self.client = client
        self._all = [TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)]

    def values(self) -> dict[int, list[bytes | None]]:
        """The values of each partition, from the start to the end that it has now."""
        found: dict[int, list[bytes | None]] = {p: [] for p in range(PARTITIONS)}
        ended: set[int] = set()
        self.client.incremental_assign(self._all)

        def read() -> bool:
            for message in self.client.consume(100, 0.05):
                if message.error() is None:
                    found[message.partition()].append(message.value())
                else:
                    ended.add(message.partition())
            return len(ended) == PARTITIONS

        wait_for("the ends are reached", read)
        self.client.incremental_unassign(self._all)
        return found


class Member:
    """A member of the group that reads from where a test says, as the worker does.

    Args:
        paused: nothing is read before it is resumed.
    """

    def __init__(self, client: Any, topic: str, *, paused: bool = False) -> None:
        self.client, self.topic, self.paused = client, topic, paused
        self.events: list[tuple[str, tuple[int, ...]]] = []
        self.owned: set[int] = set()
        self.messages: list[Any] = []
        client.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)

    def _assigned(self, _: Any, partitions: list[TopicPartition]) -> None:
        self.owned |= {p.partition for p in partitions}
        self.events.append(("assigned", tuple(sorted(p.partition for p in partitions))))
        if self.paused:
            self.client.position(partitions)  # makes the place that a pause needs
            self.client.pause(partitions)
        self.client.incremental_assign([TopicPartition(self.topic, p.partition, 0) for p in partitions])

    def _revoked(self, _: Any, partitions: list[TopicPartition]) -> None:
        self.owned -= {p.partition for p in partitions}
        self.events.append(("revoked", tuple(sorted(p.partition for p in partitions))))
        self.client.incremental_unassign(partitions)

    def poll(self) -> None:
        message = self.client.poll(0.05)
        if message is not None:
            self.messages.append(message)

    def wait(self, what: str, condition: Callable[[], object], *others: Member) -> Member:
        """Poll, and let `others` poll, until `condition` holds."""

        def step() -> object:
            for member in (self, *others):
                member.poll()
            return condition()

        wait_for(what, step)
        return self

    def settled(self, *others: Member) -> Member:
        """Wait until the members share the partitions."""
        members = (self, *others)
        share = PARTITIONS // len(members)
        return self.wait(
            "partitions are shared", lambda: all(len(m.owned) == share for m in members), *others
        )

    def here(self, partition: int, offset: int = 0, metadata: str = "") -> list[TopicPartition]:
        return [TopicPartition(self.topic, partition, offset, metadata)]
