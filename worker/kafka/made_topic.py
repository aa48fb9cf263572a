"""A topic for tags beside the worker's own, made when it is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from worker.errors import StartError
from worker.kafka.client_config import Connection, admin_config
from worker.kafka.reading import client_log
from worker.kafka.topic_ids import id_text
from worker.kafka.topic_rules import PLANS, REPLICAS, min_insync

WAIT = 30.0  # seconds for an answer of the brokers
TRIES, AGAIN = 20, 0.5  # a broker may not have heard yet of what another client has just made


@dataclasses.dataclass(frozen=True, slots=True)
class MadeTopic:
    """
    Attributes:
        id: empty where the brokers do not report it.
    """

    name: str
    partitions: int
    id: str


def tags_topic(connection: Connection, name: str, partitions: int) -> MadeTopic:
    """The topic as it is; made as the tags' topic is where there is none.

    Raises:
        StartError: it cannot be made.
    """
    admin = AdminClient(admin_config(connection), logger=client_log)
    try:
        for _ in range(TRIES):
            found = admin.list_topics(timeout=WAIT)
            if name in found.topics and found.topics[name].partitions:
                return MadeTopic(name, len(found.topics[name].partitions), _id(admin, name))
            copies = min(REPLICAS, len(found.brokers))
            config = {**PLANS["tags"].config, "min.insync.replicas": str(min_insync(copies))}
            _create(admin, NewTopic(name, partitions, copies, config=config))
            time.sleep(AGAIN)
    except (KafkaException, TimeoutError) as error:
        raise StartError(f"topic {name!r} could not be made: {error}") from None
    raise StartError(f"topic {name!r} was made and is not there; run it again")


def _create(admin: AdminClient, topic: NewTopic) -> None:
    try:
        admin.create_topics([topic])[topic.topic].result(timeout=WAIT)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def _id(admin: Any, name: str) -> str:
    with contextlib.suppress(KafkaException, TimeoutError):
        return id_text(admin.describe_topics(TopicCollection([name]))[name].result(timeout=WAIT).topic_id)
    return ""
