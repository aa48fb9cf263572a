"""Records that a real Kafka does not take: a dead letter for each, and everything else goes on."""

from __future__ import annotations

import random

import orjson
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.support.kafka_cluster import Topics, headers_of
from tests.support.kafka_world import FAILING, KafkaWorld
from tests.support.waiting import PATIENCE
from worker.demo.backends import Kafka
from worker.kafka.rights import try_transactions

pytestmark = [pytest.mark.slow, pytest.mark.kafka]


def test_check_tries_what_a_transaction_needs(apache_kafka: Kafka) -> None:
    """With the right to it nothing is said, and no transaction is left open."""
    topics = Topics(apache_kafka)
    try_transactions({"bootstrap.servers": topics.bootstrap}, topics.group)


def limit(bootstrap: str, topic: str, size: int) -> None:
    """Set a topic's `max.message.bytes`."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(PATIENCE)


@pytest.mark.parametrize("exactly_once", [True, False])
def test_what_does_not_fit_is_a_dead_letter_and_the_rest_goes_on(
    apache_kafka: Kafka, exactly_once: bool
) -> None:
    """A bad event with a key of 900 kB and one of 990 kB, a tag with large attributes, an upload that is too
    large for the retry topic: each is a dead letter that fits, forty others are tagged, with few aborts."""
    topics = Topics(apache_kafka)
    limit(topics.bootstrap, topics.retry, 2000)
    limit(topics.bootstrap, topics.tags, 4000)
    limit(topics.bootstrap, topics.dlq, 950_000)
    chance = random.Random(7)
    noise = chance.randbytes(990_000)  # it does not compress
    topics.send(noise[:900_000], b"not an event")
    topics.send(noise, b"not an event", 1)
    large = {"text": chance.randbytes(4000).hex()}
    topics.send(b"tag", orjson.dumps({"id": "tag", "url": "http://x/", "attributes": large}))
    topics.send(b"retry", orjson.dumps({"id": "retry", "url": FAILING, "attributes": large}), 1)
    good = [f"good-{n}" for n in range(40)]
    for n, upload_id in enumerate(good):
        topics.send(upload_id.encode(), orjson.dumps({"id": upload_id, "url": "http://x/"}), n % 2)
    topics.flush()
    # so long that the tries do not come to an end before the broker's refusal is here
    world = KafkaWorld(topics, exactly_once=exactly_once, retry=60.0)
    tags, dead = topics.reader(topics.tags), topics.reader(topics.dlq)
    world.until("all have a result", lambda: world.count("dead") >= 4 and not world.pipeline.in_flight)
    world.until("everything is published", lambda: not world.delivery.waiting)
    dead.read(2.0)
    tags.read(1.0)
    assert [len(m.key() or b"") for m in dead.messages if m.value() == b"not an event"] in (
        [900_000, 256], [256, 900_000],
    )  # fmt: skip
    assert {(m.key() or b"").decode() for m in tags.messages} == set(good)
    by_code = sorted(headers_of(m)["error-code"] for m in dead.messages)
    assert by_code == ["bad-event", "bad-event", "too-large", "too-large"]
    largest = max(
        dead.messages, key=lambda m: int(headers_of(m)["source-offset"] == "0" and m.partition() == 1)
    )
    assert headers_of(largest)["key-cut"].startswith("it has 990000 bytes")
    assert world.commits("aborted") <= 16  # the client needs a second one after each that the broker caused
    world.close()
