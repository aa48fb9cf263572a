"""Kafka with ACLs: the rights that docs/deploy.md lists are those that a worker needs; one that is withdrawn
ends it with a sentence."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from confluent_kafka.admin import AclOperation, ResourcePatternType, ResourceType

from tests.support.guarded_kafka import GuardedKafka, Right
from tests.support.kafka_cluster import Topics
from tests.support.kafka_world import FAILING, KafkaWorld
from tests.support.origin import Origin
from tests.support.paths import ROOT
from tests.support.redis_server import RedisServer, running
from tests.support.waiting import wait_for
from tests.support.worker_process import WorkerProcess, settings_for
from worker.demo.backends import find_java
from worker.errors import StartError

pytestmark = [pytest.mark.slow, pytest.mark.kafka]
ROW = re.compile(r"^\| ([^|]+) \| ([A-Z][\w, ]+) \| ([^|]+) \|$", re.MULTILINE)
KINDS = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional": ResourceType.TRANSACTIONAL_ID,
}


def topics_of(kafka: GuardedKafka) -> Topics:
    """All that a worker may use."""
    topics = Topics(kafka)
    kafka.create_topics([f"models-{topics.group}"], 1)
    return topics


def documented(topics: Topics, parts: tuple[str, ...] = ("tagger", "view")) -> set[Right]:
    """The rights of the table, for the topics of a test."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    text = text.partition("**Rights**")[2].partition("\n## ")[0]
    names = {
        "uploads": topics.uploads, "uploads.retry": topics.retry, "uploads.dlq": topics.dlq,
        "tags": topics.tags, "<group>": topics.group, "<group>.view": f"{topics.group}.view",
        "<group>-": f"{topics.group}-", "embeddings": topics.embeddings, "models": f"models-{topics.group}",
    }  # fmt: skip
    rights: set[Right] = set()
    for resources, operations, what_for in ROW.findall(text):
        if not any(part in what_for for part in parts) or "check" in what_for:
            continue
        kind = KINDS[resources.split()[0].rstrip("s")]
        prefixed = kind == ResourceType.TRANSACTIONAL_ID
        pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
        for name in re.findall(r"`([^`]+)`", resources):
            for operation in operations.split(", "):
                rights.add((kind, names[name], pattern, AclOperation[operation.upper()]))
    assert len(rights) >= 5, "the table is not read any more"
    return rights


@pytest.fixture(scope="module")
def kafka() -> Iterator[GuardedKafka]:
    home = os.environ.get("KAFKA_HOME")
    if not home or not find_java():
        pytest.skip("no Apache Kafka: set KAFKA_HOME, with Java 17 installed")
    with GuardedKafka(Path(home)) as broker:
        yield broker


@pytest.fixture(scope="module")
def store() -> Iterator[RedisServer]:
    with running() as server:
        yield server


def send(topics: Topics, upload_id: str, url: str) -> None:
    topics.send(upload_id.encode(), orjson.dumps({"id": upload_id, "url": url}))
    topics.flush()


@pytest.mark.redis
@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_the_rights_of_the_docs_are_enough(
    kafka: GuardedKafka, store: RedisServer, tmp_path: Path, model_folder: Path, origin: Origin,
    held_out: list[str], delivery: str,
) -> None:  # fmt: skip
    """Uploads are tagged and viewed, one is tried again and becomes a dead letter, embeddings are kept, and a
    report is in the models topic: with these rights and no others. When one is withdrawn the worker ends and
    says what to grant."""
    topics = topics_of(kafka)
    rights = documented(topics)
    if delivery == "at-least-once":
        rights = {right for right in rights if right[0] != ResourceType.TRANSACTIONAL_ID}
    kafka.grant(rights)
    settings = settings_for(topics, store.url, model_folder, origin.port)
    settings |= kafka.settings
    settings |= {
        "WORKER_DELIVERY": delivery,
        "WORKER_EMBEDDINGS_TOPIC": topics.embeddings,
        "WORKER_MODELS_TOPIC": f"models-{topics.group}",
        "WORKER_MODELS_FOLDER": str(model_folder.parent),
    }
    settings["WORKER_REDIS_PREFIX"] = prefix = f"{topics.group}:"
    ids = [f"u{n}" for n in range(4)]
    for upload_id, file in zip(ids, held_out, strict=False):
        send(topics, upload_id, origin.url(f"/{file}"))
    send(topics, "missing", origin.url("/none.jpg"))
    client, dead = store.client(), topics.reader(topics.dlq)
    with WorkerProcess(tmp_path, settings) as worker:
        keys = [f"{prefix}tag:{upload_id}" for upload_id in ids]
        wait_for("the view has every tag", lambda: client.exists(*keys) == len(keys) or worker.process.poll())
        assert client.exists(*keys) == len(keys), worker.text()
        for topic in (topics.embeddings, f"models-{topics.group}"):
            with contextlib.closing(topics.reader(topic)) as reader:
                wait_for("it is written to", lambda: reader.read(0.2) or worker.process.poll())
        wait_for("the other one is a dead letter", lambda: dead.read(0.2) or worker.process.poll())
        assert worker.process.poll() is None, worker.text()
        write = (ResourceType.TOPIC, topics.tags, ResourcePatternType.LITERAL, AclOperation.WRITE)
        kafka.withdraw(write)
        send(topics, "late", origin.url(f"/{held_out[0]}"))
        assert worker.end() == 3, worker.text()
        assert "grant Write on the topics of tags, retries and dead letters" in worker.text()
    dead.close()


@pytest.mark.redis
@pytest.mark.parametrize("of", ["topic", "group"])
def test_a_view_without_a_right_ends(
    kafka: GuardedKafka, store: RedisServer, tmp_path: Path, of: str
) -> None:
    """It needs no more than its rows of the table; without one of them it ends and says so."""
    topics = topics_of(kafka)
    kafka.grant(documented(topics, ("view",)))
    settings = settings_for(topics, store.url, tmp_path, 1) | kafka.settings
    settings["WORKER_KAFKA_SESSION_TIMEOUT_MS"] = "6000"  # then it hears of its group
    with WorkerProcess(tmp_path, settings, "view") as worker:
        wait_for("it reads", lambda: "the view owns partitions" in worker.text() or worker.process.poll())
        assert worker.process.poll() is None, worker.text()
        kind, name = (ResourceType.TOPIC, topics.tags), (ResourceType.GROUP, f"{topics.group}.view")
        kafka.withdraw((*(kind if of == "topic" else name), ResourcePatternType.LITERAL, AclOperation.READ))
        assert worker.end() == 3, worker.text()
        assert "grant Read on the topic and on the view's group" in worker.text()


@pytest.mark.parametrize(
    ("kind", "of", "operation", "remedy", "protocol"),
    [
        (ResourceType.TOPIC, "uploads", AclOperation.READ, "Read on", "consumer"),
        (ResourceType.TOPIC, "retry", AclOperation.WRITE, "grant Write on the topics", "consumer"),
        (ResourceType.GROUP, "group", AclOperation.READ, "grant Read on", "consumer"),
        (ResourceType.GROUP, "group", AclOperation.READ, "grant Read on", "classic"),
        (ResourceType.TRANSACTIONAL_ID, "group", AclOperation.WRITE, "grant Write and Describe", "consumer"),
    ],
    ids=["uploads", "retry", "group", "group, classic", "transactions"],
)
def test_a_right_that_is_withdrawn_ends_the_worker(
    kafka: GuardedKafka, kind: ResourceType, of: str, operation: AclOperation, remedy: str, protocol: str
) -> None:
    """In the middle of its work, and it says what to grant."""
    topics = topics_of(kafka)
    kafka.grant(documented(topics, ("tagger",)))
    with contextlib.closing(KafkaWorld(topics, connection=kafka.connection, protocol=protocol)) as world:
        send(topics, "first", "http://x/")
        world.until("the first one is tagged", lambda: world.count("tagged") == 1)
        transactions = kind == ResourceType.TRANSACTIONAL_ID
        pattern = ResourcePatternType.PREFIXED if transactions else ResourcePatternType.LITERAL
        kafka.withdraw((kind, getattr(topics, of) + "-" * transactions, pattern, operation))
        send(topics, "second", FAILING if of == "retry" else "http://x/")
        with pytest.raises(StartError, match=remedy):
            world.until("it ends", lambda: False)
