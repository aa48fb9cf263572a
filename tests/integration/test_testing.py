"""The fixtures for users' own tests, used as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

USERS = """
from confluent_kafka import Consumer, Producer
from worker.feed import Feed
from worker.settings.load import load


def test_tags_are_there_for_a_feed(imgclust_redis, imgclust_tagged):
    first = imgclust_tagged("a", cluster=3, name="cats", attributes={"lang": "en"})
    feed = Feed.from_url(imgclust_redis)
    assert feed.latest(3).tags == (first,)
    assert feed.clusters()[3].name == "cats"
    imgclust_tagged("a", cluster=4)
    assert feed.latest(3).tags == ()


def test_each_test_begins_empty(imgclust_redis):
    assert Feed.from_url(imgclust_redis).taxonomy() is None


def test_kafka_carries_events(imgclust_kafka):
    producer = Producer({"bootstrap.servers": imgclust_kafka})
    producer.produce("mine", b"event", b"a")
    assert producer.flush(30) == 0
    consumer = Consumer({
        "bootstrap.servers": imgclust_kafka, "group.id": "g", "auto.offset.reset": "earliest",
    })
    consumer.subscribe(["mine"])
    message = consumer.poll(60)
    assert message.value() == b"event"
    consumer.close()


def test_a_worker_finds_both(imgclust_environment, imgclust_kafka):
    assert load(imgclust_environment).bootstrap_servers == imgclust_kafka
"""


def test_a_users_tests_pass_with_them(tmp_path: Path) -> None:
    """In a folder of their own, with nothing but the plugin named."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["worker.testing"]\n')
    (tmp_path / "test_mine.py").write_text(USERS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
