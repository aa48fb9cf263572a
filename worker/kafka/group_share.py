"""Which partitions of a topic are this process's: a group's assignment, and nothing read by it.

It divides work and decides nothing about who may publish: see `worker.kafka.claim`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from worker.errors import KafkaAway, StartError, WorkerError
from worker.kafka.client_config import Connection, share_config
from worker.kafka.reading import NO_RIGHT, client_log
from worker.telemetry import log as logs

log = logs.get(__name__)

ANSWER = 10.0  # seconds


class GroupShare:
    """A membership; all of it runs on one thread.

    Attributes:
        owned: partitions.
    """

    def __init__(self, connection: Connection, client_id: str, group: str, protocol: str, topic: str) -> None:
        """Nothing is joined yet."""
        self._topic = topic
        self.owned: set[int] = set()
        properties = share_config(connection, client_id, group, protocol)
        self._consumer = Consumer({**properties, "error_cb": self._failed}, logger=client_log)

    def __enter__(self) -> GroupShare:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave: others get the partitions at once."""
        self._consumer.close()

    def join(self) -> None:
        self._consumer.subscribe(
            [self._topic], on_assign=self._assigned, on_revoke=self._gone, on_lost=self._gone
        )

    def poll(self, timeout: float) -> None:
        """Hear of the group's changes; must be called every few seconds, or the partitions are taken away.

        Raises:
            StartError: a right is missing.
            WorkerError: the client cannot go on.
        """
        message = self._consumer.poll(timeout)
        error = None if message is None else message.error()
        if error is not None:
            self._failed(error)

    def committed(self, partitions: Collection[int]) -> dict[int, tuple[int, str]]:
        """What the group has committed, as far as that is decided: partition → (offset, metadata).

        Raises:
            KafkaAway: no answer.
            StartError: a right is missing.
        """
        try:
            found = self._consumer.committed(
                [TopicPartition(self._topic, p) for p in partitions], timeout=ANSWER
            )
            for p in found:
                if p.error is not None:
                    raise KafkaException(p.error)
        except KafkaException as error:
            self._failed(error.args[0])
            raise KafkaAway(f"the group's offsets cannot be read: {error.args[0].str()}") from None
        return {p.partition: (p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def _assigned(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        # nothing is to be fetched: to ask for positions makes what can be paused before it is assigned
        here = [TopicPartition(self._topic, p.partition) for p in partitions]
        consumer.position(here)
        consumer.pause(here)
        consumer.incremental_assign([TopicPartition(self._topic, p.partition, 0) for p in partitions])
        self.owned |= {p.partition for p in partitions}
        log.debug("partitions assigned", new=[p.partition for p in partitions], owned=sorted(self.owned))

    def _gone(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign([TopicPartition(self._topic, p.partition) for p in partitions])
        self.owned -= {p.partition for p in partitions}
        log.debug("partitions gone", gone=[p.partition for p in partitions], owned=sorted(self.owned))

    def _failed(self, error: KafkaError) -> None:
        if error.code() in NO_RIGHT:
            raise StartError(
                f"Kafka refuses to let this process share {self._topic!r}: {error.str()}; grant Read on the "
                "topic and on the group"
            )
        if error.fatal():
            raise WorkerError(f"Kafka's client cannot go on: {error.str()}")
