"""Which uploads topic a group reads, noted where the deletion of that topic does not reach.

Kafka deletes a group's offsets with their topic. A worker that begins at the end where nothing is committed
(WORKER_START=latest) would pass over what a topic got that was made anew while no worker ran. So the topic's
id is kept as the metadata of an offset of the retry topic, which the group commits and nobody reads from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from worker.telemetry import log as logs

log = logs.get(__name__)

# Brokers forget offsets of topics that a group does not subscribe to (offsets.retention.minutes, a week).
AGAIN = 86_400.0  # seconds


class TopicNotes:
    """
    Args:
        client: a member of the group.
        topic: of the retries.
        wanted: whether anything depends on it; else nothing is asked or noted.
    """

    def __init__(self, client: Consumer, topic: str, *, wanted: bool, clock: Callable[[], float]) -> None:
        self._client, self._topic, self._wanted, self._clock = client, topic, wanted, clock
        self._found: dict[int, str] = {}
        self._noted: dict[int, str] = {}
        self._noted_at = -math.inf

    def where(self, partitions: Iterable[int]) -> list[KafkaPartition]:
        """What to ask the group's offsets of."""
        return [KafkaPartition(self._topic, p) for p in partitions] if self._wanted else []

    def take(self, found: KafkaPartition) -> None:
        """An answer; one that could not be had is none."""
        self._found[found.partition] = "" if found.error is not None else found.metadata or ""

    def of(self, partition: int) -> str:
        """The id of the topic that the group read last; empty where that is not known."""
        return self._found.get(partition, "")

    def note(self, topics: Mapping[int, str]) -> None:
        """Partition → id of the topic that is read now. Never waits; `again` if it failed."""
        if not self._wanted or not topics:
            return
        if topics == self._noted and self._clock() - self._noted_at < AGAIN:
            return
        self._noted, self._noted_at = dict(topics), self._clock()
        notes = [KafkaPartition(self._topic, p, 0, topic) for p, topic in sorted(topics.items())]
        try:
            self._client.commit(offsets=notes, asynchronous=True)
        except KafkaException as error:
            log.debug("the topic is not noted yet", error=error.args[0].str())
            self.again()

    def again(self) -> None:
        """The last note may not have been taken."""
        self._noted = {}
