"""A name that one process at a time may publish under, and offsets in the same transactions.

The name is a `transactional.id`: taking it ends what an earlier holder left open and fences that holder for
ever. So whoever holds it may read committed offsets and go on from there: nobody else can move them.
Membership of a group is not needed for that, and offsets are committed without one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from worker.errors import StartError, WorkerError
from worker.kafka.client_config import Connection, claim_config
from worker.kafka.delivery import REMEDIES
from worker.kafka.failpoints import enter, reach
from worker.kafka.reading import client_log

CALL = 10.0  # seconds that one call to the brokers may take
PATIENCE = 60.0  # seconds for which a call is made again while the brokers do not answer


class ClaimLost(WorkerError):
    """The transaction is void: another process has the name, or the brokers gave up on it. A new claim and
    the committed offset say what is left to do."""


class Claim:
    """Takes the name when it is made.

    Args:
        client_id: as the brokers see it.
        member: of the group whose offsets are committed; one that has not joined names the group alone.
        source: the topic that the offsets are of.

    Raises:
        ClaimLost, StartError: see `_call`.
    """

    def __init__(self, connection: Connection, client_id: str, name: str, member: Any, source: str) -> None:
        self._member, self._source = member, source
        self._producer = Producer(claim_config(connection, client_id, name), logger=client_log)
        self._open = False
        # once it is connected; before, librdkafka looks for the coordinator half a second later
        self._call(lambda patience: self._producer.list_topics(source, patience))
        self._call(self._producer.init_transactions)

    def produce(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, str | bytes | None]],
    ) -> None:
        """Publish a record in the transaction that is open, or in a new one.

        Raises:
            ClaimLost
            WorkerError: the record is too large.
        """
        self._begin()
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=list(headers))
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                reason = error.args[0]
                if reason.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise ClaimLost(reason.str()) from None
                raise WorkerError(
                    f"a record of {len(value or b'')} bytes is too large for {topic!r}: {reason.str()}; "
                    "raise WORKER_KAFKA_MESSAGE_MAX_BYTES and the topic's max.message.bytes"
                ) from None
            else:
                return

    def commit(self, offsets: Mapping[int, tuple[int, str]]) -> None:
        """End the transaction with these offsets: partition → (offset, metadata).

        Raises:
            ClaimLost: whether it was committed is not known; a new claim of the name settles it.
            StartError: the brokers refuse.
        """
        self._begin()
        named = [TopicPartition(self._source, p, offset, text) for p, (offset, text) in offsets.items()]
        reach("before-send-offsets")
        self._call(lambda patience: self._producer.send_offsets_to_transaction(named, self._member, patience))
        reach("after-send-offsets")
        reach("before-commit")
        enter("during-commit")
        self._call(self._producer.commit_transaction)
        reach("after-commit")
        self._open = False

    def _begin(self) -> None:
        if not self._open:
            self._call(lambda _: self._producer.begin_transaction())
            self._open = True

    def close(self) -> None:
        """Void what is not committed."""
        if self._open:
            self._open = False
            with contextlib.suppress(KafkaException):
                self._producer.abort_transaction(CALL)
        self._producer.purge()

    def _call(self, call: Callable[[float], object]) -> None:
        """A call to the brokers, made again while they only do not answer.

        Raises:
            StartError: they refuse this user.
            ClaimLost: anything else.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                call(CALL)
                return
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.code() in REMEDIES:
                    raise StartError(
                        f"Kafka refuses: {reason.str()}; docs/deploy.md lists the rights that are needed"
                    ) from None
                if not reason.retriable() or time.monotonic() > deadline:
                    raise ClaimLost(reason.str()) from None
