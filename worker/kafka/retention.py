"""How long a compacted topic keeps deletions."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from worker.kafka.client_config import admin_config
from worker.kafka.reading import client_log
from worker.telemetry import log as logs

log = logs.get(__name__)

DELETE_RETENTION = 86_400.0  # Kafka's default of delete.retention.ms
REQUEST_SECONDS = 10.0
_PASSING = (KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT, KafkaError._TRANSPORT)


class DeleteRetention:
    """A topic's `delete.retention.ms`; asked for once, by the client's own thread."""

    def __init__(self, connection: Mapping[str, Any], topic: str) -> None:
        self._connection, self._topic = connection, topic
        self._question: Future[Any] | None = None
        self._seconds: float | None = None
        self._admin: AdminClient | None = None  # kept until it has answered

    def seconds(self, timeout: float) -> float:
        """Kafka's default where the brokers do not let us know.

        Args:
            timeout: seconds to wait for an answer.

        Raises:
            KafkaException: no answer yet; ask again.
        """
        if self._seconds is None:
            self._seconds = self._answer(timeout)
            self._admin = self._question = None
        return self._seconds

    def _answer(self, timeout: float) -> float:
        question = self._question = self._question or self._ask()
        try:
            return int(question.result(timeout)["delete.retention.ms"].value) / 1000
        except TimeoutError:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
        except (KafkaException, KeyError, TypeError, ValueError) as error:
            self._question = None
            if isinstance(error, KafkaException) and error.args[0].code() in _PASSING:
                raise
            log.warning(
                "no delete.retention.ms from Kafka",
                topic=self._topic, assumed=DELETE_RETENTION, reason=str(error),
            )  # fmt: skip
            return DELETE_RETENTION

    def _ask(self) -> Future[Any]:
        self._admin = AdminClient(admin_config(self._connection), logger=client_log)
        resource = ConfigResource(ResourceType.TOPIC, self._topic)
        questions = self._admin.describe_configs([resource], request_timeout=REQUEST_SECONDS)
        return next(iter(questions.values()))
