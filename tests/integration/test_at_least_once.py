"""At-least-once delivery on Apache Kafka: what it commits without waiting is there for the next owner."""

from __future__ import annotations

import contextlib

import orjson
import pytest

from tests.support.kafka_cluster import PARTITIONS, Topics
from tests.support.kafka_world import KafkaWorld
from worker.demo.backends import Kafka

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_who_takes_over_finds_what_was_committed_on_the_way_out(apache_kafka: Kafka, protocol: str) -> None:
    """Nothing is committed but when partitions are given up: to a second member, which does nothing again,
    and at the end."""
    topics = Topics(apache_kafka)
    for number in range(40):
        event = orjson.dumps({"id": f"u{number}", "url": "http://x/"})
        topics.send(b"%d" % number, event, number % PARTITIONS)
    topics.flush()
    with contextlib.ExitStack() as stack:
        first = KafkaWorld(topics, exactly_once=False, protocol=protocol, interval=1e6)
        with contextlib.closing(first):
            first.until("all are tagged", lambda: first.count("tagged") == 40)
            second = KafkaWorld(topics, exactly_once=False, protocol=protocol, interval=1e6)
            stack.enter_context(contextlib.closing(second))

            def has_its_share() -> bool:
                first.round()
                return len(second.consumer.partitions) == PARTITIONS // 2 and not second.consumer.waiting

            second.until("it takes over half of them", has_its_share)
            taken = second.consumer.partitions
            assert {p: topics.committed()[p][0] for p in taken} == dict.fromkeys(taken, 40 // PARTITIONS)
            assert first.pipeline.drain(10.0, lambda: False)
        found = {p: offset for p, (offset, _) in topics.committed().items()}
        assert found == dict.fromkeys(range(PARTITIONS), 40 // PARTITIONS)
        second.until("it has the rest", lambda: len(second.consumer.partitions) == PARTITIONS)
        second.until("it has looked", lambda: not second.consumer.waiting)
        assert (first.count("tagged"), second.count("tagged")) == (40, 0)
