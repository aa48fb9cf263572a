"""Results → Kafka: tags, deletions, retries, dead letters; and what is done → committed offsets.

`Delivery` is the contract; `AtLeastOnce` is here, `worker.kafka.exactly_once.ExactlyOnce` is the default. With
at-least-once delivery a result counts as safe when the broker acknowledged it, and only then is its offset
committed. A worker that dies in between leaves the result to be published again, which readers see as an
equal tag. It is for brokers without transactions, and for the mock cluster, which stores no offsets that are
sent in one.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from worker.errors import StartError
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.reading import Record, client_log
from worker.messages.upload import printable
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Journey

log = logs.get(__name__)

JSON = b"application/json"
MAX_HEADER_TEXT = 500
# A dead letter is larger than its upload by the headers; one that no longer fits says where the upload is.
VALUE_OMITTED = ("value-omitted", b"too large to be copied; it is at source-partition, source-offset")
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
# A partition whose broker is slow holds up the results of others no longer than this.
ROUND_PATIENCE = 0.25  # seconds
_LEAVING = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._DESTROY)


def producer_config(bootstrap: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka's configuration for publishing results: idempotent, so a partition keeps its order."""
    return {
        "linger.ms": 1,  # for one round; rounds are what gathers results
        "compression.type": "lz4",
        "client.id": "imgclust-worker",
        # a result waits for a broker that is away as long as it takes: nothing is given up on by a timer
        "message.timeout.ms": 0,
        "queue.buffering.max.kbytes": 262144,
        **extra,
        "bootstrap.servers": bootstrap,
        "enable.idempotence": True,
        "acks": "all",
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One record to publish for `source`; it goes to the source's partition number.

    Publishing it ends `source`, unless it ended before (a retry's outcome). `value` None is a tombstone.
    `headers` come on top of those that every result carries.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    source: Record
    headers: tuple[tuple[str, bytes], ...] = ()
    content_type: bytes | None = JSON
    omittable: bool = False  # a value that the broker finds too large may be left out
    trace: Journey | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def traceparent(self) -> bytes | None:
        """The upload's, or that of the span which continues it."""
        return self.source.traceparent if self.trace is None else self.trace.traceparent

    def ended(self, outcome: str | None = None) -> None:
        """It is safe, or `outcome` says why it will not be published."""
        if self.trace is not None:
            self.trace.end(outcome)


def text_header(name: str, value: object) -> tuple[str, bytes]:
    """A header of printable ASCII, bounded: what is in it may come from a stranger."""
    text = str(value)
    if not (text.isascii() and text.isprintable()):
        text = printable(text, MAX_HEADER_TEXT)
    return name, text[:MAX_HEADER_TEXT].encode()


def source_headers(source: Record) -> list[tuple[str, bytes]]:
    return [
        ("source-partition", b"%d" % source.partition),
        ("source-offset", b"%d" % source.offset),
        ("source-timestamp", b"%d" % source.timestamp),
    ]


def wire_headers(result: Result, uploads_topic: tuple[str, bytes]) -> list[tuple[str, str | bytes | None]]:
    """All headers of a result."""
    headers: list[tuple[str, str | bytes | None]] = [
        uploads_topic,
        *source_headers(result.source),
        *result.headers,
    ]
    if result.content_type is not None:
        headers.append(("content-type", result.content_type))
    if result.traceparent is not None:
        headers.append(("traceparent", result.traceparent))
    return headers


def without_value(result: Result) -> Result:
    """A dead letter that the broker found too large, as a note of where the upload is."""
    return dataclasses.replace(result, value=None, headers=(*result.headers, VALUE_OMITTED))


def is_too_large(error: KafkaError, result: Result) -> bool:
    """Whether `without_value` would help."""
    return error.code() in _TOO_LARGE and result.value is not None and result.omittable


UNMENDABLE = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
)


def refused(error: KafkaError) -> Exception:
    """The exception for an error that trying again does not mend."""
    if error.code() in UNMENDABLE:
        return StartError(f"Kafka refuses to let this worker publish: {error.str()}")
    return KafkaException(error)


class Delivery(Protocol):
    """Publishes results and commits offsets, on the thread that owns Kafka.

    A result is kept until it is safe, and is published by whoever owns its partition or by nobody: what is of
    an assignment that has ended is dropped.
    """

    @property
    def waiting(self) -> int:
        """Results that are not safe yet."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the values of these and of their sources."""

    def publish(self, *results: Result) -> None:
        """Take the results of one upload; never waits for the broker."""

    def turn(self) -> None:
        """Go on with what is due. Called right after each poll; waits for the broker a second at most.

        Raises:
            StartError: Kafka does not let this worker write.
            KafkaException: anything else that is no use to try again here.
        """

    def leave(self, partitions: set[int], lost: bool) -> None:
        """Partitions go: make safe what can be within REVOKE_COMMIT, unless they are lost; drop the rest."""

    def finish(self, timeout: float) -> bool:
        """Make everything safe and commit, within `timeout` seconds; whether that was done."""


# A revocation waits at most so long for what is published to be safe. With what pipeline.REVOKE_FINISH allows
# this stays below the shortest session (6 s), and holds up no other member for long.
REVOKE_COMMIT = 2.0  # seconds


def size_of(result: Result) -> int:
    return len(result.value or b"") + len(result.source.value or b"")


def _place(source: Record) -> tuple[int, int, int]:
    return source.partition, source.epoch, source.offset


class AtLeastOnce:
    """Publishes results and tells when each is safe; see `Delivery`.

    Results leave in rounds: while one is on its way, the next one gathers, so that a slow broker gets fewer
    and larger requests. An idempotent producer has at most five of them on their way, and while more wait,
    librdkafka's thread spins: with a request for every few results it burned 0.12 ms of a core for each.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        uploads_topic: str,
        consumer: UploadsConsumer,
        *,
        interval: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`interval`: seconds between two commits."""
        self._source_topic = ("source-topic", uploads_topic.encode())
        self._consumer = consumer
        self._interval = interval
        self._metrics = metrics
        self._stage = metrics.stages["publish"]
        self._clock = clock
        self._waiting = 0
        self._left: Counter[tuple[int, int, int]] = Counter()  # results of a source that are not safe yet
        self._bytes = 0
        self._gathered: list[Result] = []
        self._round_at = -ROUND_PATIENCE
        self._commit_at = clock()
        self._fatal: KafkaError | None = None
        self._producer = Producer({**config, "error_cb": self._on_error}, logger=client_log)

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def publish(self, *results: Result) -> None:
        self._stage.enter(len(results))
        for result in results:
            self._take(result)

    def _take(self, result: Result) -> None:
        self._waiting += 1
        self._left[_place(result.source)] += 1
        self._bytes += size_of(result)
        self._gathered.append(result)

    def _drop(self, partitions: set[int]) -> None:
        """Forget results that wait for the next round and whose partition is somebody else's by now."""
        dropped = [result for result in self._gathered if result.source.partition in partitions]
        self._gathered = [result for result in self._gathered if result.source.partition not in partitions]
        self._waiting -= len(dropped)
        self._bytes -= sum(map(size_of, dropped))
        self._stage.leave(len(dropped), "dropped")
        for result in dropped:
            self._left.pop(_place(result.source), None)
            result.ended("dropped")

    def _start_round(self) -> None:
        """Hand what has gathered to the producer; never waits for the broker unless its queue is full."""
        self._round_at = self._clock()
        gathered, self._gathered = self._gathered, []
        for result in gathered:
            self._hand_over(result)

    def _hand_over(self, result: Result) -> None:
        headers = wire_headers(result, self._source_topic)
        while not self._produce(result, headers):
            self._producer.poll(0.1)  # the queue is full: let acknowledgements in
            self._raise_fatal()

    def _produce(self, result: Result, headers: list[tuple[str, str | bytes | None]]) -> bool:
        try:
            self._producer.produce(
                result.topic,
                key=result.key,
                value=result.value,
                partition=result.source.partition,
                headers=headers,
                on_delivery=lambda error, _: self._delivered(result, error),
            )
        except BufferError:
            return False
        except KafkaException as error:
            self._delivered(result, error.args[0])
        return True

    def _delivered(self, result: Result, error: KafkaError | None) -> None:
        self._waiting -= 1
        self._bytes -= size_of(result)
        place = _place(result.source)
        self._left[place] -= 1
        if error is None:
            self._stage.leave()
            if self._left[place] <= 0:  # the last of an upload's results: now it is done
                del self._left[place]
                self._consumer.done(result.source)
            result.ended()
            return
        self._metrics.produce_errors.inc()
        log.error(
            "publishing failed", topic=result.topic, partition=result.source.partition, error=error.str()
        )
        if is_too_large(error, result):
            self._take(without_value(result))
        elif self._fatal is None and error.code() not in _LEAVING:
            self._fatal = error

    def turn(self) -> None:
        self._poll()
        now = self._clock()
        if now >= self._commit_at:
            self._commit_at = now + self._interval
            self._consumer.commit()

    def _poll(self) -> None:
        """Take in acknowledgements; start the next round when the last one is safe."""
        self._producer.poll(0)
        self._raise_fatal()
        on_the_way = self._waiting - len(self._gathered)
        if self._gathered and (not on_the_way or self._clock() - self._round_at >= ROUND_PATIENCE):
            self._start_round()

    def leave(self, partitions: set[int], lost: bool) -> None:
        if lost:
            self._drop(partitions)
            return
        if self._waiting:
            self._flush(REVOKE_COMMIT)
        self._consumer.commit(leaving=partitions)
        self._drop(partitions)

    def finish(self, timeout: float) -> bool:
        safe = self._flush(timeout)
        self._consumer.commit(leaving=set(self._consumer.partitions))
        return safe

    def _flush(self, timeout: float) -> bool:
        """Wait until everything is acknowledged, at most `timeout` seconds; whether it was."""
        self._start_round()
        remaining: int = self._producer.flush(timeout)
        return remaining == 0 and not self._gathered

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        else:
            log.warning("Kafka client", error=error.str())

    def _raise_fatal(self) -> None:
        """Nothing may be published after a result that was not: whoever comes next begins before it."""
        if self._fatal is not None:
            raise refused(self._fatal)
