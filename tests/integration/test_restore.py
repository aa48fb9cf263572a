"""Pending retries are restored behind whatever transactions are open: on Apache Kafka, the mock has none."""

from __future__ import annotations

import time
import uuid

import pytest
from confluent_kafka import Producer

from tests.support.kafka_cluster import Topics
from tests.support.waiting import PATIENCE, wait_for
from worker.demo.backends import Kafka
from worker.kafka.client_config import changelog_config
from worker.kafka.retry_changelog import RetryChangelog

pytestmark = pytest.mark.kafka


class Writer:
    """A transactional producer of one partition of the retry topic."""

    def __init__(self, topics: Topics) -> None:
        self._topic = topics.retry
        self.producer = Producer(
            {"bootstrap.servers": topics.bootstrap, "transactional.id": f"test-{uuid.uuid4()}"}
        )
        self.producer.init_transactions(PATIENCE)
        self.producer.begin_transaction()

    def write(self, upload_id: str, value: bytes | None) -> None:
        headers = {"source-partition": "1", "source-offset": "7", "source-timestamp": "0"}
        headers |= {"attempt": "1", "not-before": "0"}
        self.producer.produce(self._topic, value, upload_id, 1, headers=list(headers.items()))
        assert self.producer.flush(PATIENCE) == 0


def test_an_open_transaction_is_waited_for(apache_kafka: Kafka) -> None:
    """A dead owner's open transaction hides what its successor has committed behind it: a retry that has
    ended since must not be restored."""
    topics = Topics(apache_kafka)
    first = Writer(topics)
    first.write("ended", b'{"id":"ended","url":"http://x/"}')
    first.producer.commit_transaction(PATIENCE)
    dead, successor = Writer(topics), Writer(topics)
    dead.write("other", b'{"id":"other","url":"http://x/"}')
    successor.write("ended", None)
    successor.producer.commit_transaction(PATIENCE)

    reader = RetryChangelog(
        changelog_config({"bootstrap.servers": topics.bootstrap}, topics.group), topics.retry,
        clock=time.monotonic, wall_ms=lambda: 0, longest=60.0,
    )  # fmt: skip
    try:
        reader.begin(1, 1)
        restored: list[object] = []
        deadline = time.monotonic() + 3  # nothing may come; a wrong implementation has time to show it
        while time.monotonic() < deadline:
            restored += reader.poll()
        assert restored == [], "it was restored as it stood before the open transaction"
        dead.producer.abort_transaction(PATIENCE)
        wait_for("the partition is restored", lambda: restored.extend(reader.poll()) or restored)
        ((partition, epoch, pending),) = restored
        assert (partition, epoch, len(pending)) == (1, 1, 0)
    finally:
        reader.close()
