"""Kafka's messages as values: what the stages know of a record."""

from __future__ import annotations

import dataclasses
import logging
import re

from confluent_kafka import Consumer, Message

client_log = logging.getLogger("worker.kafka")

# W3C Trace Context; versions to come may add fields. Whatever else stands there is not passed on.
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,128})?")


@dataclasses.dataclass(slots=True)  # not frozen, which would make it four times as slow to make
class Record:
    """One record of the uploads topic.

    Attributes:
        epoch: of the assignment under which it was read.
        timestamp: milliseconds since the epoch; when it was read if the broker gave none.
        traceparent: the W3C trace header, where there is one.
    """

    partition: int
    epoch: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    traceparent: bytes | None = None


def some_of(consumer: Consumer, wait: float, most: int) -> list[Message]:
    """What is there, at most `most` and one more; waits `wait` seconds for the first only, where `consume`
    alone would wait until it has all."""
    first = consumer.poll(wait)
    return [] if first is None else [first, *consumer.consume(most, 0)]


def headers_of(message: Message) -> dict[str, bytes]:
    """A message's headers; the last one of a name."""
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {name: value for name, value in pairs if isinstance(value, bytes)}


def traceparent_of(message: Message) -> bytes | None:
    return trace_header(headers_of(message)) if message.headers() else None


def trace_header(headers: dict[str, bytes]) -> bytes | None:
    found = headers.get("traceparent")
    return found if found is not None and _TRACEPARENT.fullmatch(found) else None
