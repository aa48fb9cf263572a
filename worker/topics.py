"""The four topics: are they there, do they fit each other; makes those that are missing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from worker.consume import client_log
from worker.errors import StartError
from worker.settings import Settings

TIMEOUT = 10.0  # seconds for each question to the brokers


def connection(settings: Settings) -> dict[str, Any]:
    return {**settings.kafka, "bootstrap.servers": settings.bootstrap_servers}


@dataclasses.dataclass(frozen=True, slots=True)
class Topics:
    """Partition counts by topic; 0 for one that is missing."""

    counts: Mapping[str, int]
    brokers: int


def look(settings: Settings) -> Topics:
    """Ask Kafka for the four topics.

    Raises:
        StartError: no broker answers.
    """
    admin = AdminClient(connection(settings), logger=client_log)
    names = (settings.uploads_topic, settings.tags_topic, settings.retry_topic, settings.dlq_topic)
    try:
        found = admin.list_topics(timeout=TIMEOUT)
    except KafkaException as error:
        raise StartError(
            f"no answer from Kafka at {settings.bootstrap_servers} within {TIMEOUT:g} s "
            f"({error.args[0].str()}); check WORKER_BOOTSTRAP_SERVERS, "
            "and WORKER_KAFKA_SECURITY_PROTOCOL where the brokers want TLS or SASL"
        ) from None
    counts = {name: len(found.topics[name].partitions) if name in found.topics else 0 for name in names}
    return Topics(counts, len(found.brokers))


def _config(settings: Settings, name: str) -> dict[str, str]:
    compacted = name in (settings.tags_topic, settings.retry_topic)
    return {"cleanup.policy": "compact"} if compacted else {}


def create_missing(settings: Settings, topics: Topics) -> list[str]:
    """Make the topics that are missing, with as many partitions as `uploads` has.

    Raises:
        StartError: Kafka refuses.
    """
    missing = [name for name, count in topics.counts.items() if not count]
    if not missing:
        return []
    partitions = topics.counts[settings.uploads_topic] or settings.partitions
    admin = AdminClient(connection(settings), logger=client_log)
    wanted = [NewTopic(name, partitions, -1, config=_config(settings, name)) for name in missing]
    for name, future in admin.create_topics(wanted, operation_timeout=TIMEOUT).items():
        try:
            future.result(timeout=TIMEOUT)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker was faster
                raise StartError(f"topic {name!r} could not be made: {error.args[0].str()}") from None
        except TimeoutError:
            raise StartError(f"topic {name!r} could not be made: no answer within {TIMEOUT:g} s") from None
    return missing


def problems(settings: Settings, topics: Topics) -> list[str]:
    """What stands in the way of a start, one sentence each."""
    missing = [name for name, count in topics.counts.items() if not count]
    if missing:
        return [
            f"missing topics: {', '.join(missing)}; make them (all four with the same number of partitions), "
            "or set WORKER_CREATE_TOPICS=true"
        ]
    if len(set(topics.counts.values())) > 1:
        shown = ", ".join(f"{name}: {count}" for name, count in topics.counts.items())
        return [
            f"the four topics must have the same number of partitions, because a result goes to the number "
            f"that its upload came from; they have {shown}"
        ]
    return []


def ensure(settings: Settings) -> Topics:
    """The topics as a worker needs them.

    Raises:
        StartError: Kafka is away, or the topics are missing or do not fit each other.
    """
    topics = look(settings)
    if settings.create_topics and create_missing(settings, topics):
        # a broker may answer before it has heard of what the controller made
        for _ in range(20):
            topics = look(settings)
            if all(topics.counts.values()):
                break
            time.sleep(0.25)
    found = problems(settings, topics)
    if found:
        raise StartError("\n".join(found))
    return topics
