"""The four topics: are they there, do they fit each other, do they keep what they must; makes those that are
missing."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from worker.errors import KafkaAway, StartError
from worker.kafka.client_config import admin_config, reader_config
from worker.kafka.reading import client_log
from worker.kafka.topic_rules import (
    ONE_PARTITION,
    PLANS,
    REPLICAS,
    KafkaCluster,
    KeySample,
    Topic,
    TopicRole,
    min_insync,
)
from worker.messages.text import printable
from worker.telemetry import log as logs

log = logs.get(__name__)

TIMEOUT = 10.0  # seconds for each question to the brokers
INTERNAL = ("__transaction_state", "__consumer_offsets")
SAMPLE_RECORDS, SAMPLE_PARTITIONS, SAMPLE_SECONDS = 200, 64, 3.0


@dataclasses.dataclass(frozen=True, slots=True)
class TopicsConfig:
    """Which topics a worker uses, and where.

    Attributes:
        connection: librdkafka properties that every client of the cluster has.
        names: of each role's topic; `embeddings` and `models` only where they are in use.
        group_id: the tagger's group; reading a sample of keys borrows its name.
        create: make those that are missing when the worker starts.
        partitions: of topics that are made while `uploads` does not exist.
    """

    connection: Mapping[str, Any] = dataclasses.field(repr=False)
    names: Mapping[TopicRole, str]
    group_id: str
    create: bool = False
    partitions: int = 8

    @property
    def single(self) -> frozenset[str]:
        """Names of those that must have one partition."""
        return frozenset(name for role, name in self.names.items() if role in ONE_PARTITION)


@dataclasses.dataclass(frozen=True, slots=True)
class Topics:
    """Partition counts by topic; 0 for one that is missing.

    Attributes:
        single: names of those that have one partition.
    """

    counts: Mapping[str, int]
    brokers: int
    single: frozenset[str] = frozenset()


def look(config: TopicsConfig) -> Topics:
    """Ask Kafka for the four topics.

    Raises:
        StartError: no broker answers.
    """
    found = _list(config)
    counts = {name: _partitions(found, name) for name in config.names.values()}
    return Topics(counts, len(found.brokers), config.single)


def await_kafka(config: TopicsConfig, keep_waiting: Callable[[], bool]) -> bool:
    """Wait until a broker answers.

    Args:
        keep_waiting: asked every second, before the broker is.

    Returns:
        Whether one did.

    Raises:
        StartError: the brokers refuse us; waiting would not help.
    """
    question = _Question(config)
    while keep_waiting():
        try:
            question.ask(1.0)
        except KafkaAway:
            continue
        return True
    return False


def _list(config: TopicsConfig) -> Any:
    return _Question(config).ask(TIMEOUT)


class _Question:
    """What topics there are, asked by one client, which goes on connecting in between."""

    def __init__(self, config: TopicsConfig) -> None:
        self._servers = config.connection["bootstrap.servers"]
        # what the client meets while it tries: more than that the time was up
        self._heard: deque[KafkaError] = deque(maxlen=20)
        properties = {**admin_config(config.connection), "error_cb": self._heard.append}
        self._admin = AdminClient(properties, logger=client_log)

    def ask(self, timeout: float) -> Any:
        """
        Raises:
            KafkaAway: no broker answers.
            StartError: they refuse us.
        """
        try:
            return self._admin.list_topics(timeout=timeout)
        except KafkaException as error:
            self._admin.poll(0)  # brings what was heard
            refusals = [e for e in self._heard if e.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL)]
            reason = (*refusals, *self._heard, error.args[0])[0].str()
            raise (StartError if refusals else KafkaAway)(
                f"no answer from Kafka at {self._servers} within {timeout:g} s ({printable(reason)}); "
                "check WORKER_BOOTSTRAP_SERVERS, "
                "and WORKER_KAFKA_SECURITY_PROTOCOL where the brokers want TLS or SASL"
            ) from None


def _partitions(found: Any, name: str) -> int:
    return len(found.topics[name].partitions) if name in found.topics else 0


# ── looking closer ───────────────────────────────────────────────────────────────────────────────────────


def describe(config: TopicsConfig) -> KafkaCluster:
    """Ask Kafka for all that `topic_rules` looks at. What the brokers do not say is left empty.

    Raises:
        StartError: no broker answers.
    """
    found = _list(config)
    there = [name for name in (*config.names.values(), *INTERNAL) if _partitions(found, name)]
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in there]
    broker = ConfigResource(ResourceType.BROKER, str(next(iter(found.brokers), 0)))
    configs = _configs(config, [*resources, broker])

    def topic(name: str) -> Topic:
        if name not in there:
            return Topic(name, 0)
        replicas = [len(p.replicas) for p in found.topics[name].partitions.values()]
        return Topic(name, len(replicas), min(replicas), configs.get((ResourceType.TOPIC, name), {}))

    return KafkaCluster(
        len(found.brokers),
        {role: topic(name) for role, name in config.names.items()},
        tuple(topic(name) for name in INTERNAL if name in there),
        configs.get((ResourceType.BROKER, broker.name), {}),
        sample(config, _partitions(found, config.names["uploads"])),
    )


def _configs(
    config: TopicsConfig, resources: Sequence[ConfigResource]
) -> dict[tuple[ResourceType, str], dict[str, str]]:
    """Name → value of each resource that may be described; a right that is missing hides only its own."""
    admin = AdminClient(admin_config(config.connection), logger=client_log)
    configs = {}
    for resource, answer in admin.describe_configs(list(resources), request_timeout=TIMEOUT).items():
        try:
            entries = answer.result(timeout=TIMEOUT)
        except (KafkaException, TimeoutError):
            continue
        known = {name: entry.value for name, entry in entries.items() if entry.value is not None}
        configs[resource.restype, resource.name] = known
    return configs


def sample(config: TopicsConfig, partitions: int) -> tuple[KeySample, ...]:
    """The keys of the last records of uploads, as far as they come within a few seconds."""
    properties = reader_config(config.connection, "imgclust-operator", f"{config.group_id}.check")
    consumer = Consumer(properties, logger=client_log)
    try:
        return _sample(consumer, config.names["uploads"], range(min(partitions, SAMPLE_PARTITIONS)))
    except KafkaException:
        return ()
    finally:
        consumer.close()


def _sample(consumer: Consumer, topic: str, partitions: range) -> tuple[KeySample, ...]:
    keys: dict[int, list[bytes | None]] = {}
    begin = []
    deadline = time.monotonic() + SAMPLE_SECONDS
    for partition in partitions:
        if time.monotonic() > deadline:
            break
        here = KafkaPartition(topic, partition)
        low, high = consumer.get_watermark_offsets(here, timeout=SAMPLE_SECONDS)
        if high > low:
            begin.append(KafkaPartition(topic, partition, max(low, high - SAMPLE_RECORDS)))
    if not begin:
        return ()
    consumer.assign(begin)
    reading = {p.partition for p in begin}
    while reading and time.monotonic() < deadline:
        for message in consumer.consume(SAMPLE_RECORDS, 0.2):
            error, number = message.error(), message.partition()
            if number is None:  # only errors of the client itself come without one
                continue
            if error is None:
                keys.setdefault(number, []).append(message.key())
            elif error.code() == KafkaError._PARTITION_EOF:
                reading.discard(number)
    return tuple(KeySample(partition, tuple(found)) for partition, found in sorted(keys.items()))


# ── making them ──────────────────────────────────────────────────────────────────────────────────────────


def create_missing(config: TopicsConfig, topics: Topics, replicas: int | None = None) -> list[str]:
    """Make the topics that are missing as `topic_rules.PLANS` says, with as many partitions as `uploads` has.

    Args:
        replicas: of each partition; by default three, or as many as there are brokers.

    Raises:
        StartError: Kafka refuses.
    """
    missing = {role: name for role, name in config.names.items() if not topics.counts[name]}
    if not missing:
        return []
    partitions = topics.counts[config.names["uploads"]] or config.partitions
    copies = replicas or min(REPLICAS, topics.brokers)
    least = {"min.insync.replicas": str(min_insync(copies))}
    wanted = [
        NewTopic(
            name,
            1 if role in ONE_PARTITION else partitions,
            copies,
            config={**PLANS[role].config, **least},
        )
        for role, name in missing.items()
    ]
    admin = AdminClient(admin_config(config.connection), logger=client_log)
    for name, future in admin.create_topics(wanted, operation_timeout=TIMEOUT).items():
        try:
            future.result(timeout=TIMEOUT)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker was faster
                raise StartError(f"topic {name!r} could not be made: {error.args[0].str()}") from None
        except TimeoutError:
            raise StartError(f"topic {name!r} could not be made: no answer within {TIMEOUT:g} s") from None
    return list(missing.values())


def await_made(config: TopicsConfig) -> Topics:
    """The topics after some were made: a broker may answer before it has heard of what the controller "
    "made."""
    for _ in range(20):
        topics = look(config)
        if all(topics.counts.values()):
            break
        time.sleep(0.25)
    return topics


def problems(topics: Topics) -> list[str]:
    """What stands in the way of a start, one sentence each."""
    found = []
    missing = [name for name, count in topics.counts.items() if not count]
    if missing:
        found.append(
            f"missing topics: {', '.join(missing)} (or this user may not describe them); create them with "
            "`imgclust-worker topics --create` (all four with the same number of partitions), or set "
            "WORKER_CREATE_TOPICS=true"
        )
    several = [f"{name!r} has {topics.counts[name]}" for name in topics.single if topics.counts[name] > 1]
    if several:
        found.append(
            f"the models topic must have one partition, so that its records have one order; {several[0]}"
        )
    counts = {name: n for name, n in topics.counts.items() if n and name not in topics.single}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name}: {count}" for name, count in counts.items())
        found.append(
            f"the four topics must have the same number of partitions, because a result goes to the "
            f"partition number of its upload; they have {shown}"
        )
    return found


def ensure(config: TopicsConfig) -> Topics:
    """The topics as a worker needs them.

    Raises:
        StartError: Kafka is away, or the topics are missing or do not fit each other.
    """
    topics = look(config)
    if config.create and create_missing(config, topics):
        topics = await_made(config)
    found = problems(topics)
    if found:
        raise StartError("\n".join(found))
    return topics
