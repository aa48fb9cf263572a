"""The four topics: are they there, do they fit each other, do they keep what they must; makes those that are
missing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from worker.commands.findings import Finding, tell
from worker.errors import SettingsError, StartError
from worker.kafka.reading import client_log
from worker.kafka.topic_rules import (
    ONE_PARTITION,
    PLANS,
    REPLICAS,
    Cluster,
    Role,
    Sample,
    Topic,
    duration,
    min_insync,
    warnings,
)
from worker.messages.upload import printable
from worker.settings.load import Settings

TIMEOUT = 10.0  # seconds for each question to the brokers
INTERNAL = ("__transaction_state", "__consumer_offsets")
SAMPLE_RECORDS, SAMPLE_PARTITIONS, SAMPLE_SECONDS = 200, 64, 3.0


def connection(settings: Settings) -> dict[str, Any]:
    return {**settings.kafka, "bootstrap.servers": settings.bootstrap_servers}


def check_properties(settings: Settings) -> None:
    """Have Kafka's client look at the `WORKER_KAFKA_…` settings; nothing is connected to.

    Raises:
        SettingsError: it knows a name or a value not, or cannot read a key or a certificate.
    """
    try:
        AdminClient(connection(settings), logger=client_log)
    except KafkaException as error:
        raise SettingsError(
            f"Kafka's client refuses a WORKER_KAFKA_… setting: {printable(error.args[0].str())}"
        ) from None


def names(settings: Settings) -> dict[Role, str]:
    found: dict[Role, str] = {
        "uploads": settings.uploads_topic,
        "tags": settings.tags_topic,
        "retry": settings.retry_topic,
        "dlq": settings.dlq_topic,
    }
    if settings.embeddings_topic is not None:
        found["embeddings"] = settings.embeddings_topic
    if settings.models_topic is not None:
        found["models"] = settings.models_topic
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Topics:
    """Partition counts by topic; 0 for one that is missing.

    Attributes:
        single: names of those that have one partition.
    """

    counts: Mapping[str, int]
    brokers: int
    single: frozenset[str] = frozenset()


def look(settings: Settings) -> Topics:
    """Ask Kafka for the four topics.

    Raises:
        StartError: no broker answers.
    """
    found = _list(settings)
    counts = {name: _partitions(found, name) for name in names(settings).values()}
    return Topics(counts, len(found.brokers), _single(settings))


def _single(settings: Settings) -> frozenset[str]:
    return frozenset(name for role, name in names(settings).items() if role in ONE_PARTITION)


def _list(settings: Settings) -> Any:
    heard: list[KafkaError] = []  # what the client meets while it tries: more than that the time was up
    config: dict[str, Any] = {**connection(settings), "error_cb": heard.append}
    admin = AdminClient(config, logger=client_log)
    try:
        return admin.list_topics(timeout=TIMEOUT)
    except KafkaException as error:
        admin.poll(0)  # brings what was heard
        telling = [e for e in heard if e.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL)]
        reason = (*telling, *heard, error.args[0])[0].str()
        raise StartError(
            f"no answer from Kafka at {settings.bootstrap_servers} within {TIMEOUT:g} s "
            f"({printable(reason)}); check WORKER_BOOTSTRAP_SERVERS, "
            "and WORKER_KAFKA_SECURITY_PROTOCOL where the brokers want TLS or SASL"
        ) from None


def _partitions(found: Any, name: str) -> int:
    return len(found.topics[name].partitions) if name in found.topics else 0


# ── looking closer ───────────────────────────────────────────────────────────────────────────────────────


def describe(settings: Settings) -> Cluster:
    """Ask Kafka for all that `topic_rules` looks at. What the brokers do not tell is left empty.

    Raises:
        StartError: no broker answers.
    """
    found = _list(settings)
    there = [name for name in (*names(settings).values(), *INTERNAL) if _partitions(found, name)]
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in there]
    broker = ConfigResource(ResourceType.BROKER, str(next(iter(found.brokers), 0)))
    configs = _configs(settings, [*resources, broker])

    def topic(name: str) -> Topic:
        if name not in there:
            return Topic(name, 0)
        replicas = [len(p.replicas) for p in found.topics[name].partitions.values()]
        return Topic(name, len(replicas), min(replicas), configs.get((ResourceType.TOPIC, name), {}))

    return Cluster(
        len(found.brokers),
        {role: topic(name) for role, name in names(settings).items()},
        tuple(topic(name) for name in INTERNAL if name in there),
        configs.get((ResourceType.BROKER, broker.name), {}),
        sample(settings, _partitions(found, settings.uploads_topic)),
    )


def _configs(
    settings: Settings, resources: Sequence[ConfigResource]
) -> dict[tuple[ResourceType, str], dict[str, str]]:
    """Name → value of each resource that may be described; a right that is missing hides only its own."""
    admin = AdminClient(connection(settings), logger=client_log)
    configs = {}
    for resource, answer in admin.describe_configs(list(resources), request_timeout=TIMEOUT).items():
        try:
            entries = answer.result(timeout=TIMEOUT)
        except (KafkaException, TimeoutError):
            continue
        known = {name: entry.value for name, entry in entries.items() if entry.value is not None}
        configs[resource.restype, resource.name] = known
    return configs


def sample(settings: Settings, partitions: int) -> tuple[Sample, ...]:
    """The keys of the last records of uploads, as far as they come within a few seconds."""
    config = {
        **connection(settings),
        "group.id": f"{settings.group_id}.check",  # the client wants one; nothing is joined or committed
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "latest",
    }
    consumer = Consumer(config, logger=client_log)
    try:
        return _sample(consumer, settings.uploads_topic, range(min(partitions, SAMPLE_PARTITIONS)))
    except KafkaException:
        return ()
    finally:
        consumer.close()


def _sample(consumer: Consumer, topic: str, partitions: range) -> tuple[Sample, ...]:
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
    return tuple(Sample(partition, tuple(found)) for partition, found in sorted(keys.items()))


# ── making them ──────────────────────────────────────────────────────────────────────────────────────────


def create_missing(settings: Settings, topics: Topics, replicas: int | None = None) -> list[str]:
    """Make the topics that are missing as `topic_rules.PLANS` says, with as many partitions as `uploads` has.

    Args:
        replicas: of each partition; by default three, or as many as there are brokers.

    Raises:
        StartError: Kafka refuses.
    """
    missing = {role: name for role, name in names(settings).items() if not topics.counts[name]}
    if not missing:
        return []
    partitions = topics.counts[settings.uploads_topic] or settings.partitions
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
    admin = AdminClient(connection(settings), logger=client_log)
    for name, future in admin.create_topics(wanted, operation_timeout=TIMEOUT).items():
        try:
            future.result(timeout=TIMEOUT)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker was faster
                raise StartError(f"topic {name!r} could not be made: {error.args[0].str()}") from None
        except TimeoutError:
            raise StartError(f"topic {name!r} could not be made: no answer within {TIMEOUT:g} s") from None
    return list(missing.values())


def _made(settings: Settings) -> Topics:
    """The topics after some were made: a broker may answer before it has heard of what the controller "
    "made."""
    for _ in range(20):
        topics = look(settings)
        if all(topics.counts.values()):
            break
        time.sleep(0.25)
    return topics


def problems(settings: Settings, topics: Topics) -> list[str]:
    """What stands in the way of a start, one sentence each."""
    missing = [name for name, count in topics.counts.items() if not count]
    if missing:
        return [
            f"missing topics: {', '.join(missing)}; make them with `imgclust-worker topics --create` (all "
            "four with the same number of partitions), or set WORKER_CREATE_TOPICS=true"
        ]
    several = [f"{name!r} has {topics.counts[name]}" for name in topics.single if topics.counts[name] != 1]
    if several:
        return [f"the models topic must have one partition, so that its records have one order; {several[0]}"]
    counts = {name: count for name, count in topics.counts.items() if name not in topics.single}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name}: {count}" for name, count in counts.items())
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
        topics = _made(settings)
    found = problems(settings, topics)
    if found:
        raise StartError("\n".join(found))
    return topics


# ── telling ──────────────────────────────────────────────────────────────────────────────────────────────


def findings(settings: Settings) -> Iterator[Finding]:
    """What `imgclust-worker topics --check` says, and `check` too.

    Raises:
        StartError: no broker answers.
    """
    cluster = describe(settings)
    yield Finding("Kafka", True, f"{cluster.brokers} broker(s) at {settings.bootstrap_servers}")
    counts = {topic.name: topic.partitions for topic in cluster.topics.values()}
    wrong = problems(settings, Topics(counts, cluster.brokers, _single(settings)))
    shown = "; ".join(_shown(topic) for topic in cluster.topics.values() if topic.partitions)
    if wrong and settings.create_topics and not all(counts.values()):
        yield Finding(
            "topics", True, f"there: {shown or 'none'}; `run` makes the rest (WORKER_CREATE_TOPICS)"
        )
    elif wrong:
        yield Finding("topics", False, wrong[0])
    else:
        yield Finding("topics", True, shown)
    silent = [t.name for t in cluster.topics.values() if t.partitions and not t.config]
    if silent:
        yield Finding(
            "topics", True, f"their configuration is not told: {', '.join(silent)}",
            "allow DescribeConfigs on the topics to have it checked", warning=True,
        )  # fmt: skip
    for warn in warnings(cluster):
        yield Finding("topics", True, warn.what, warn.remedy, warning=True)


def _shown(topic: Topic) -> str:
    parts = [f"{topic.partitions} partitions", f"{topic.replicas} replicas"]
    if topic.config:
        parts.append("+".join(sorted(topic.policies)))
    reach = topic.number("retention.ms")
    if "delete" in topic.policies and reach is not None:
        parts.append(f"kept for {duration(reach)}")
    return f"{topic.name} ({', '.join(parts)})"


def command(settings: Settings, *, create: bool, replicas: int | None = None) -> int:
    """`imgclust-worker topics`: make what is missing if wanted, then say how things are; the exit code."""
    if create:
        made = create_missing(settings, look(settings), replicas)
        print(f"made: {', '.join(made)}" if made else "made: nothing, all four topics are there")
        if made:
            _made(settings)
    return tell(findings(settings), ready="the topics are fit for `imgclust-worker run`")
