"""Results → Kafka: tags, deletions, retries, dead letters; and what is done → committed offsets.

`Delivery` is the contract. `worker.kafka.exactly_once.ExactlyOnce` is the default. With
`worker.kafka.at_least_once.AtLeastOnce` a result is safe when the broker has acknowledged it, and only then
is its offset committed: a worker that dies in between leaves the result to be published again, which readers
see as an equal tag. It is for brokers without transactions, and for the mock cluster, which stores no offsets
that are sent in one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException

from worker.errors import StartError
from worker.kafka.client_config import TRANSACTION_TIMEOUT_MS
from worker.messages.headers import VALUE_OMITTED, key_cut, result_headers
from worker.messages.record import Record
from worker.telemetry import log as logs
from worker.telemetry.tracing import UploadTrace

log = logs.get(__name__)

JSON = b"application/json"
KEY_KEPT = 256  # bytes of a key that does not fit
_REFUSED = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One record to publish for `source`; it goes to the source's partition number.

    Publishing it ends `source`, unless it ended before (a retry's outcome). `value` None is a tombstone.
    `headers` come on top of those that every result carries; `attempts`: tries of the upload so far;
    `on_safe` is called when it is.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    source: Record
    headers: tuple[tuple[str, bytes], ...] = ()
    content_type: bytes | None = JSON
    attempts: int = 0
    on_safe: Callable[[], None] | None = dataclasses.field(default=None, compare=False, repr=False)
    trace: UploadTrace | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def traceparent(self) -> bytes | None:
        """The upload's, or that of the span which continues it."""
        return self.source.traceparent if self.trace is None else self.trace.traceparent

    def ended(self, outcome: str | None = None) -> None:
        """It is safe, or `outcome` says why it will not be published."""
        if self.on_safe is not None and outcome is None:
            self.on_safe()
        if self.trace is not None:
            self.trace.end(outcome)


def wire_headers(result: Result, uploads_topic: bytes) -> list[tuple[str, str | bytes | None]]:
    return result_headers(
        uploads_topic, result.source, result.headers, result.content_type, result.traceparent
    )


def smaller(result: Result) -> Result | None:
    """The same record with less of the upload in it, and a header that says so; None when nothing is left to
    take away. First the larger of key and value."""
    key = result.key or b""
    if result.value is not None and len(result.value) >= len(key):
        return dataclasses.replace(result, value=None, headers=(*result.headers, VALUE_OMITTED))
    if len(key) > KEY_KEPT:
        cut = key_cut(len(key), KEY_KEPT)
        return dataclasses.replace(result, key=key[:KEY_KEPT], headers=(*result.headers, cut))
    if result.value is not None:
        return dataclasses.replace(result, value=None, headers=(*result.headers, VALUE_OMITTED))
    return None


def is_refused(error: KafkaError) -> bool:
    """Whether the record is at fault, or one of those in the same request: no further try helps it."""
    return error.code() in _REFUSED


# What no further try can change, and what an operator can do about it.
REMEDIES = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: (
        "grant Write on the topics of tags, retries and dead letters, and Read on that of uploads"
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "grant IdempotentWrite on the cluster",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "grant Read on the group",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        "grant Write and Describe on the transactional ids that begin with the group's name and a hyphen, or "
        "set WORKER_DELIVERY=at-least-once"
    ),
    KafkaError.INVALID_TRANSACTION_TIMEOUT: (
        f"raise the brokers' transaction.max.timeout.ms to {TRANSACTION_TIMEOUT_MS} or more, or set "
        "WORKER_DELIVERY=at-least-once"
    ),
}


def refused(error: KafkaError) -> Exception:
    """The exception for an error that no further try can change."""
    remedy = REMEDIES.get(error.code())
    if remedy is not None:
        return StartError(f"Kafka refuses to let this worker publish: {error.str()}; {remedy}")
    return KafkaException(error)


OnRefused = Callable[[Result, KafkaError], Sequence[Result]]
"""What is published in the place of a record that Kafka does not take; see `Delivery.on_refused`."""


def cut_or_raise(result: Result, error: KafkaError) -> Sequence[Result]:
    """
    Raises:
        StartError: nothing of the record can be left out.
    """
    less = smaller(result)
    if less is None:
        raise StartError(
            f"topic {result.topic!r} does not accept even {size_of(result)} bytes: {error.str()}; "
            "see its max.message.bytes and cleanup.policy"
        )
    return [less]


class Delivery(Protocol):
    """Publishes results and commits offsets, on the thread that owns Kafka.

    A result is kept until it is safe, and is published by whoever owns its partition or by nobody: what is of
    an assignment that has ended is dropped. One record that Kafka does not take holds nothing up: it is
    found, `on_refused` says what is published in its place, and the others go on.
    """

    on_refused: OnRefused

    @property
    def waiting(self) -> int:
        """Results that are not safe yet."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the values of these and of their sources."""

    def publish(self, *results: Result) -> None:
        """Take the results of one upload; never waits for the broker."""

    def run_once(self) -> None:
        """Go on with what is due. Called right after each poll; waits for the broker a second at most.

        Raises:
            StartError: Kafka does not let this worker write.
            KafkaException: anything else that is no use to try again here.
        """

    def leave(self, partitions: set[int], lost: bool) -> None:
        """Partitions go: make safe what can be within REVOKE_COMMIT, unless they are lost; drop the rest."""

    def finish(self, timeout: float) -> bool:
        """Make everything safe and commit, within `timeout` seconds; whether that was done."""


# A call to the broker waits at most so long in one round; polls go on between two rounds. Not all of them
# keep to it: measured with a frozen broker, `send_offsets_to_transaction` returns when the transaction times
# out.
STEP = 1.0  # seconds
# A revocation waits at most so long for what is published to be safe. With what pipeline.REVOKE_FINISH allows
# this stays below the shortest session (6 s), and holds up no other member for long.
REVOKE_COMMIT = 2.0  # seconds


def size_of(result: Result) -> int:
    return len(result.value or b"") + len(result.source.value or b"")
