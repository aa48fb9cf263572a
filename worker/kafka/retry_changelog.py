"""The retry topic → pending retries of a partition, when its uploads are assigned.

`uploads.retry` is a compacted changelog, as a state store of Kafka Streams has one: the last record of an id
is its pending retry, a null ends it. Whoever owns uploads p reads uploads.retry p up to the end that it had
at the moment of assignment, before anything of uploads p is processed. It is read with `assign`, outside of
any group: subscribed to, it would be spread over the members in another way than the uploads are.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
)
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from worker.errors import StartError
from worker.kafka.client_config import admin_config
from worker.kafka.failpoints import reach
from worker.kafka.pending_retries import PendingRetries
from worker.kafka.reading import NO_RIGHT, client_log, headers_of
from worker.messages.headers import RetryHeaders, SourcePosition, read_traceparent
from worker.messages.record import Record
from worker.telemetry import log as logs

log = logs.get(__name__)

# 1,000 records take about 20 ms: the loop goes on in between, however much there is to read
_MAX_FETCH = 1000
# What is pending is in no cycle. Looking for some among a million took 1.5 s at once.
_SPARE = 50_000
_END_TIMEOUT = 1.0
_END_RETRY = 0.5
# the last one: no broker leads any of those that were asked for
_NO_PARTITION = (KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._NOENT)


@dataclasses.dataclass(slots=True)  # not frozen, which would make it four times as slow to make
class Pending:
    """An upload that waits for another try.

    Attributes:
        record: the upload's record, with its id as the key; its offset counts as done since it was handed
            over to the retry topic.
        attempts: tries that failed.
        not_before: milliseconds since the epoch.
        deaths: how many workers died while it was encoded alone.
    """

    record: Record
    attempts: int
    not_before: int
    deaths: int = 0

    @property
    def id(self) -> str:
        return (self.record.key or b"").decode()


@dataclasses.dataclass(slots=True)
class _Restoring:
    epoch: int
    end: int | None = None  # the topic's end when it was begun, when known
    reached: int = -1  # where reading came to an end last
    ask_at: float = 0.0
    read: int = 0
    trouble: str = ""  # why it does not go on
    found: PendingRetries[Pending] = dataclasses.field(default_factory=PendingRetries)


class RetryChangelog:
    """Reads the pending retries of partitions, many records at a time, between rounds of the loop.

    Args:
        config: see `changelog_config`.
        clock: monotonic seconds, of the due times.
        wall_ms: milliseconds since the epoch, of the records.
        longest: seconds that a retry waits at most, whatever the clock of its writer showed.
        admin: in the place of a client of this connection.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        longest: float,
        admin: Any = None,
    ) -> None:
        self.topic = topic
        self._clock = clock
        self._wall_ms = wall_ms
        self._longest = longest
        self._restoring: dict[int, _Restoring] = {}
        self._consumer = Consumer(dict(config), logger=client_log)
        # answers in threads of its own, so that nobody waits here
        self._admin = admin or AdminClient(admin_config(config), logger=client_log)
        self._asked: dict[tuple[int, int], Future[Any]] = {}  # (partition, epoch) → its end

    def begin(self, partition: int, epoch: int) -> None:
        """Start to restore a partition whose last owner has nothing more to commit; returns at once."""
        self.drop(partition)
        self._restoring[partition] = _Restoring(epoch)
        self._consumer.incremental_assign([KafkaPartition(self.topic, partition, OFFSET_BEGINNING)])

    def drop(self, partition: int) -> None:
        """The partition is somebody else's, or restored."""
        if self._restoring.pop(partition, None) is not None:
            self._consumer.incremental_unassign([KafkaPartition(self.topic, partition)])

    def poll(self) -> list[tuple[int, int, PendingRetries[Pending]]]:
        """Read on, without waiting; (partition, epoch, what is pending) of those that are restored."""
        if not self._restoring:
            return []
        self._take_ends()
        self._ask_ends()
        for message in self._consumer.consume(_MAX_FETCH, 0):
            self._take(message)
        restored = []
        for partition, state in list(self._restoring.items()):
            if state.end is not None and state.reached >= state.end:
                reach("retry-restore")
                self.drop(partition)
                restored.append((partition, state.epoch, state.found))
                log.info("retries restored", partition=partition, pending=len(state.found), read=state.read)
        return restored

    def _ask_ends(self) -> None:
        """Where the partitions end that were just begun, all of them in one request.

        To a `read_committed` client a partition ends before the first open transaction. What a dead owner
        left open hides what its successors have committed since: the end must lie behind all of it.
        """
        now = self._clock()
        wanted = {
            KafkaPartition(self.topic, partition): (partition, state.epoch)
            for partition, state in self._restoring.items()
            if state.end is None and now >= state.ask_at and (partition, state.epoch) not in self._asked
        }
        if not wanted:
            return
        answers = self._admin.list_offsets(
            {here: OffsetSpec.latest() for here in wanted},  # type: ignore[no-untyped-call]
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=_END_TIMEOUT,
        )
        self._asked |= {wanted[here]: answer for here, answer in answers.items()}

    def _take_ends(self) -> None:
        """An answer counts for the assignment for which it was asked; an older end may lie before the last
        owner's last records."""
        for (partition, epoch), answer in list(self._asked.items()):
            if not answer.done():
                continue
            del self._asked[partition, epoch]
            state = self._restoring.get(partition)
            if state is None or state.epoch != epoch:
                continue
            try:
                state.end, state.trouble = answer.result(0).offset, ""
            except KafkaException as error:
                state.ask_at = self._clock() + _END_RETRY
                self._failed(partition, state, error.args[0])

    def _take(self, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        state = self._restoring.get(partition) if partition is not None else None
        if state is None or partition is None or offset is None:
            return
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                state.reached = offset
            else:
                self._failed(partition, state, error)
            return
        state.read += 1
        state.trouble = ""
        if state.read % _SPARE == 0:
            gc.freeze()
        key = message.key()
        try:
            upload_id = (key or b"").decode()
            if message.value() is None:
                state.found.remove(upload_id)
            else:
                pending = _pending(message, state.epoch)
                wait = min(self._longest, (pending.not_before - self._wall_ms()) / 1000)
                due, nbytes = self._clock() + wait, len(pending.record.value or b"")
                state.found.add(upload_id, pending, due, pending.record.timestamp, nbytes)
        except ValueError as error_:
            log.error(
                "a record of the retry topic was not written by this worker; it is ignored",
                partition=partition, offset=offset, error=f"{type(error_).__name__}: {str(error_)[:100]!a}",
            )  # fmt: skip

    def _failed(self, partition: int, state: _Restoring, error: KafkaError) -> None:
        """It goes on by itself, or the worker has to end."""
        if error.code() in NO_RIGHT:
            raise StartError(
                f"Kafka refuses to let this worker read {self.topic!r}: {error.str()}; grant Read on it"
            )
        state.trouble = f"{self.topic!r} cannot be read: {error.str()}"
        if error.code() in _NO_PARTITION:
            state.trouble = (
                f"{self.topic!r} has no partition {partition}, or no broker leads it: give it as many as the "
                "uploads topic has (`imgclust-worker topics --check` says how many)"
            )
        log.debug("retries cannot be read yet", partition=partition, error=error.str())

    def is_reading(self, partition: int) -> bool:
        """Whether the partition is being restored: its end is known, and nothing is in the way."""
        state = self._restoring.get(partition)
        return state is not None and state.end is not None and not state.trouble

    def trouble(self, partition: int) -> str:
        """Why the partition cannot be restored now; empty where nothing is wrong."""
        state = self._restoring.get(partition)
        return "" if state is None else state.trouble

    def close(self) -> None:
        self._consumer.close()


def _pending(message: Message, epoch: int) -> Pending:
    """A record of the retry topic as it was published, see `worker.tagger.pipeline`.

    Raises:
        ValueError: a header is missing or says nothing.
    """
    headers = headers_of(message)
    source, retry = SourcePosition.read(headers), RetryHeaders.read(headers)
    if source is None or source.partition != message.partition():
        raise ValueError(f"its source is {source}")
    record = Record(
        source.partition, epoch, source.offset, message.key(), message.value(), source.timestamp,
        read_traceparent(headers), handed_over=True,
    )  # fmt: skip
    return Pending(record, retry.attempts, retry.not_before, retry.deaths)
