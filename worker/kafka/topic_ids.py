"""Which topics these are: a topic that was deleted and made anew has the same name and another id.

An offset, and everything that was remembered beside it, is of one topic. The ids are asked for by a client
that answers in threads of its own, so nobody waits here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from worker.kafka.client_config import admin_config
from worker.kafka.reading import client_log
from worker.telemetry import log as logs

log = logs.get(__name__)

EVERY = 15.0  # seconds between two questions
ANSWER = 2.0  # seconds that one may take
PATIENCE = 1.0  # seconds for which an answer is waited for; one that comes later counts all the same
_AWAY = 1.0  # seconds until it is asked again for a topic that is not there
_NOT_THERE = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)


class TopicIds:
    """The ids of some topics, kept up to date by `poll`.

    Brokers that do not tell ids (before 2.8, librdkafka's mock, no right to describe the topic) are believed:
    every position of theirs counts as one of the same topic.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        names: Sequence[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        admin: Any = None,
    ) -> None:
        """`admin`: in the place of a client of this connection."""
        self._admin = admin or AdminClient(admin_config(connection), logger=client_log)
        self._names = list(names)
        self._clock = clock
        self._ids: dict[str, str | None] = {}
        self._asked: dict[str, Future[Any]] = {}
        self._asked_at = -math.inf
        self._again = False  # what is on its way was asked too early
        self._news = False
        self._due_at = clock()

    def refresh(self) -> None:
        """Only what is asked from now on counts. Brokers that never told an id are not waited for."""
        if any(self._ids.values()):
            self._ids.clear()
        self._again = bool(self._asked)
        self._due_at = self._clock()

    def poll(self) -> bool:
        """Ask when it is time; never waits. Whether there is an answer since the last call."""
        self._take_in()
        if not self._asked and self._clock() >= self._due_at:
            self._asked = self._admin.describe_topics(TopicCollection(self._names), request_timeout=ANSWER)
            self._asked_at = self._clock()
        news, self._news = self._news, False
        return news

    def _take_in(self) -> None:
        if not self._asked or not all(future.done() for future in self._asked.values()):
            return
        answered, self._asked = self._asked, {}
        if self._again:
            self._again = False
            return
        self._due_at, self._news = self._clock() + EVERY, True
        for name, future in answered.items():
            self._take(name, future)

    def _take(self, name: str, future: Future[Any]) -> None:
        try:
            self._ids[name] = id_text(future.result(0).topic_id)
        except KafkaException as error:
            if error.args[0].code() in _NOT_THERE:
                self._ids[name] = None
                self._due_at = min(self._due_at, self._clock() + _AWAY)
            else:
                log.debug("the id of a topic is not known", topic=name, error=error.args[0].str())
                self._ids.setdefault(name, "")

    def of(self, name: str) -> str | None:
        """The topic's id; empty where the brokers do not tell it; None while there is no such topic, and for
        a moment after `refresh`."""
        self._take_in()
        if name not in self._ids and self._asked and self._clock() - self._asked_at > PATIENCE:
            return ""
        return self._ids.get(name)


def id_text(uuid: Any) -> str:
    """16 bytes in base64; none at all are no id."""
    text = str(uuid).rstrip("=")
    return text if text.strip("A") else ""
