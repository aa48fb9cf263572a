"""Where partitions of the tags topic begin and end, and where they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

KAFKA_TIMEOUT = 1.0  # seconds for one question to the brokers


class Positions:
    """Of one topic, by the consumer that reads it. No question waits longer than `KAFKA_TIMEOUT`."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._consumer: Any = None

    def connect(self, consumer: Any) -> None:
        self._consumer = consumer

    def seek(self, partition: int, offset: int) -> bool:
        """Read on from there; False while the client has not begun to read the partition at all."""
        try:
            self._consumer.seek(TopicPartition(self._topic, partition, offset))
        except KafkaException as error:
            if error.args[0].code() != KafkaError._STATE:
                raise
            return False
        return True

    def edges(self, partitions: Iterable[int], which: int) -> dict[int, int]:
        """Where partitions begin (OFFSET_BEGINNING) or end (OFFSET_END).

        One question for all: behind a waiting fetch each takes half a second, and `get_watermark_offsets`
        would ask once for each. A timestamp of -1 or -2 means the same edges as an offset of -1 or -2.

        Raises:
            KafkaException: no answer.
        """
        asked = [TopicPartition(self._topic, partition, which) for partition in partitions]
        edges = {}
        for found in self._consumer.offsets_for_times(asked, timeout=KAFKA_TIMEOUT) if asked else ():
            if found.error is not None:
                raise KafkaException(found.error)
            edges[found.partition] = int(found.offset)
        return edges
