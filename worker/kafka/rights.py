"""May this worker publish in transactions? Tried, as only the broker knows."""

from __future__ import annotations

import uuid

from confluent_kafka import KafkaException, Producer

from worker.errors import WorkerError
from worker.kafka.client_config import Connection, transaction_config
from worker.kafka.delivery import refused
from worker.kafka.reading import client_log

TIMEOUT = 10.0  # seconds


def try_transactions(connection: Connection, group: str) -> None:
    """Begin no transaction, but ask for the right to: under a name that begins as the worker's does.

    Raises:
        StartError: the brokers refuse; the text says what to grant or to change.
        WorkerError: they do not answer.
    """
    producer = Producer(transaction_config(connection, f"{group}-check-{uuid.uuid4()}"), logger=client_log)
    try:
        producer.init_transactions(TIMEOUT)
    except KafkaException as error:
        reason = refused(error.args[0])
        if isinstance(reason, WorkerError):
            raise reason from None
        raise WorkerError(f"the brokers prepare no transaction: {error.args[0].str()}") from None
