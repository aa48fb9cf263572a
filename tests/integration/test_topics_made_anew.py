"""Topics that are made anew, logs that lose their start, partitions that are added: on Apache Kafka."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from tests.support.kafka_cluster import PARTITIONS, Topics, make_anew
from tests.support.kafka_world import FAILING, STUCK, KafkaWorld
from tests.support.waiting import PATIENCE, wait_for
from worker.demo.backends import Kafka
from worker.kafka.offsets import decode_done
from worker.messages.models import Assignment, ModelRef, WorkerReport, write_assignment
from worker.tagger.models_topic import ModelsWatch

pytestmark = pytest.mark.kafka


@pytest.fixture
def topics(apache_kafka: Kafka) -> Topics:
    return Topics(apache_kafka)


@pytest.fixture
def start(topics: Topics) -> Iterator[Any]:
    """Starts workers; all leave at the end."""
    running: list[KafkaWorld] = []

    def begin(**options: Any) -> KafkaWorld:
        running.append(KafkaWorld(topics, **options))
        return running[-1]

    yield begin
    for world in running:
        world.close()


def send(topics: Topics, *ids: str, url: str = "http://x/", partition: int = 0) -> None:
    for upload_id in ids:
        event = orjson.dumps({"id": upload_id, "url": url + upload_id})
        topics.send(upload_id.encode(), event, partition)
    topics.flush()


def tagged(topics: Topics) -> list[str]:
    """The ids of all tags, in order."""
    reader = topics.reader(topics.tags)
    try:
        return [(message.key() or b"").decode() for message in reader.read(1.0)]
    finally:
        reader.close()


def lost(world: KafkaWorld) -> float | None:
    return world.metrics.value("imgclust_consumer_records_lost_total")


def committed(topics: Topics, partition: int = 0) -> int:
    return topics.committed().get(partition, (0, ""))[0]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is stopped"])
def test_uploads_made_anew_are_all_tagged(topics: Topics, start: Any, protocol: str, running: bool) -> None:
    """Also those at offsets that were done in the topic that is gone, of which there are as many again."""
    old, new = [f"old{n}" for n in range(20)], [f"new{n}" for n in range(40)]
    send(topics, *old)
    world = start(protocol=protocol)
    world.until("the first ones are tagged", lambda: world.count("tagged") == 20 and committed(topics) >= 20)
    if not running:
        world.close()
    make_anew(topics.bootstrap, topics.uploads)
    topics = topics.reconnected()
    send(topics, *new)
    if not running:
        world = start(protocol=protocol)
    world.until("all of the new ones are tagged", lambda: set(new) <= set(tagged(topics)))


def test_from_the_end_uploads_made_anew_are_all_tagged(topics: Topics, start: Any) -> None:
    """With WORKER_START=latest too: of a topic that is known to be new, its end is not where to begin."""
    send(topics, "before")
    world = start(start="latest")
    world.until("it has begun at the end", lambda: committed(topics) == 1)
    send(topics, "first")
    world.until("it is tagged", lambda: world.count("tagged") == 1 and committed(topics) == 2)
    world.until("the topic is noted", lambda: topics.committed(topics.retry))
    world.close()
    make_anew(topics.bootstrap, topics.uploads)
    assert committed(topics) == 0, "Kafka keeps offsets of topics that are gone: is the note needed?"
    topics = topics.reconnected()
    new = [f"new{n}" for n in range(5)]
    send(topics, *new)
    world = start(start="latest")
    world.until("all of the new ones are tagged", lambda: tagged(topics) == ["first", *new])


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is stopped"])
def test_retries_that_are_gone_with_their_topic_are_counted(
    topics: Topics, start: Any, running: bool
) -> None:
    """Nothing else would tell that they are missing: their offsets are done."""
    send(topics, "a", "b", "c", url=FAILING)
    world = start(retry=60.0)
    world.until("three wait", lambda: world.metrics.value("imgclust_retries_pending") == 3)
    send(topics, "d")
    world.until("that is committed", lambda: world.count("tagged") == 1 and committed(topics) >= 4)
    if not running:
        world.close()
    make_anew(topics.bootstrap, topics.retry)
    if not running:
        world = start()
    world.until("they are counted", lambda: lost(world) == 3)
    send(topics, "e")
    world.until("others go on", lambda: "e" in tagged(topics))
    assert tagged(topics).count("d") == 1


def test_retention_within_the_done_offsets_repeats_nothing(topics: Topics, start: Any) -> None:
    """The first upload never ends, the others are tagged, and retention takes the first five: what was done
    is not done again, and only the one that was not is lost."""
    send(topics, "stuck", url=STUCK)
    ids = [f"u{n}" for n in range(19)]
    send(topics, *ids)
    first = start()
    first.until("the others are tagged", lambda: first.count("tagged") == 19)

    def all_done() -> bool:
        position, metadata = topics.committed().get(0, (0, ""))
        return position == 0 and len(decode_done(position, metadata)) == 19

    first.until("that is committed", all_done)
    first.consumer.close()
    admin = AdminClient({"bootstrap.servers": topics.bootstrap})
    cut = [TopicPartition(topics.uploads, 0, 5)]
    for future in admin.delete_records(cut).values():
        future.result(PATIENCE)
    send(topics, "after")
    second = start()
    second.until("it goes on", lambda: "after" in tagged(topics))
    assert sorted(tagged(topics)) == sorted([*ids, "after"])
    assert lost(second) == 1


def test_partitions_that_were_added_to_uploads_alone_wait_and_say_so(topics: Topics, start: Any) -> None:
    """Why is told; when the other topics have them too, nothing of them is lost or overtaken."""
    world = start(connection={"topic.metadata.refresh.interval.ms": 500})
    world.until("it has begun", lambda: world.consumer.partitions and not world.consumer.waiting)
    admin = AdminClient({"bootstrap.servers": topics.bootstrap})
    admin.create_partitions([NewPartitions(topics.uploads, PARTITIONS + 1)])[topics.uploads].result(PATIENCE)
    topics = topics.reconnected()
    send(topics, "first", "second", partition=PARTITIONS)

    def reason() -> str:
        return str(world.consumer.waiting.get(PARTITIONS, ""))

    world.until("it is said which topic lacks it", lambda: f"{topics.retry!r} has no partition" in reason())
    send(topics, "elsewhere")
    world.until("the others go on", lambda: world.count("tagged") == 1)
    for name in (topics.retry, topics.tags, topics.dlq):
        admin.create_partitions([NewPartitions(name, PARTITIONS + 1)])[name].result(PATIENCE)
    world.until("it begins", lambda: world.count("tagged") == 3)
    assert world.consumer.waiting == {}


def test_a_models_topic_that_is_made_anew_is_read_from_its_start(apache_kafka: Kafka) -> None:
    """The model that the new topic names is taken, though its record has an offset that was read before."""
    topic = f"models-{uuid.uuid4().hex[:8]}"
    apache_kafka.create_topics([topic], 1)
    wanted: list[str] = []

    def settle(assignments: Any) -> bool:
        wanted.append(assignments["live"].model.version if "live" in assignments else "")
        return False

    changer: Any = SimpleNamespace(settle=settle, report=lambda: WorkerReport("v", "t", 0, None, {}, 0))
    watch = ModelsWatch({"bootstrap.servers": apache_kafka.bootstrap}, topic, changer)

    def name(version: str, times: int) -> None:
        producer = Producer({"bootstrap.servers": apache_kafka.bootstrap})
        for _ in range(times):
            value = write_assignment(Assignment(ModelRef(version, version, "folder"), 1))
            producer.produce(topic, value, b"live", 0)
        assert producer.flush(PATIENCE) == 0

    name("a" * 12, 5)
    watch.start()
    try:
        wait_for("the first model", lambda: wanted and wanted[-1] == "a" * 12)
        make_anew(apache_kafka.bootstrap, topic, 1)
        name("b" * 12, 1)
        wait_for("the model of the new topic", lambda: wanted[-1] == "b" * 12)
    finally:
        watch.stop()
