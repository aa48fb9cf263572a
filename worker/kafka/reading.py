"""Kafka's messages as values: what the stages know of a record."""

from __future__ import annotations

import logging

from confluent_kafka import Consumer, KafkaError, Message

from worker.messages.headers import read_headers

client_log = logging.getLogger("worker.kafka")
# who reads and lacks one of these rights can do nothing: it ends and says what to grant
NO_RIGHT = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)


def some_of(consumer: Consumer, wait: float, most: int) -> list[Message]:
    """What is there, at most `most` and one more; waits `wait` seconds for the first only, where `consume`
    alone would wait until it has all."""
    first = consumer.poll(wait)
    return [] if first is None else [first, *consumer.consume(most, 0)]


def headers_of(message: Message) -> dict[str, str]:
    return read_headers(message.headers() or ())
