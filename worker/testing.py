"""Fixtures for your own tests, with nothing else installed: a Kafka and a Redis in this process.

    # conftest.py
    pytest_plugins = ["worker.testing"]

    # test_feed.py
    def test_my_feed_shows_cats(imgclust_redis, imgclust_tagged):
        imgclust_tagged("upload-1", cluster=3, name="cats")
        assert my_feed(imgclust_redis) == ["upload-1"]

The Kafka is librdkafka's mock cluster: topics appear when they are asked for, with four partitions; it has no
transactions, keeps about 5 MB a partition, and is for tests alone. The Redis is a real Valkey (extra `demo`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Protocol

import pytest
import redis

from worker.demo.backends import MockKafka, valkey_url
from worker.errors import StartError
from worker.messages.tag import Tag
from worker.messages.upload import Attribute
from worker.view.records import read_record
from worker.view.store import TagsView

MODEL = "0123456789ab"


class Tagged(Protocol):
    def __call__(
        self,
        upload_id: str,
        cluster: int = 0,
        *,
        name: str | None = None,
        probability: float = 1.0,
        novel: bool = False,
        url: str | None = None,
        uploaded_at: int | None = None,
        attributes: dict[str, Attribute] | None = None,
        group: int | None = None,
    ) -> Tag:
        """Write a tag into Redis as the view does; `uploaded_at` in ms since the epoch, by default now."""


@pytest.fixture(scope="session")
def imgclust_kafka() -> Iterator[str]:
    """The bootstrap servers of a Kafka that lives as long as the session; use topics of your own names."""
    with MockKafka() as kafka:
        yield kafka.bootstrap


@pytest.fixture(scope="session")
def _imgclust_valkey() -> Iterator[str]:
    try:
        with valkey_url() as url:
            yield url
    except StartError as error:
        pytest.skip(str(error))


@pytest.fixture
def imgclust_redis(_imgclust_valkey: str) -> str:
    """The URL of a Redis that is empty when the test begins."""
    with redis.Redis.from_url(_imgclust_valkey) as client:
        client.flushall()
    return _imgclust_valkey


@pytest.fixture
def imgclust_environment(imgclust_kafka: str, imgclust_redis: str) -> dict[str, str]:
    """WORKER_… settings that lead a worker to both; the mock cluster has no transactions."""
    return {
        "WORKER_BOOTSTRAP_SERVERS": imgclust_kafka,
        "WORKER_REDIS_URL": imgclust_redis,
        "WORKER_DELIVERY": "at-least-once",
        "WORKER_HTTP": "127.0.0.1:0",
        "WORKER_WALL": "127.0.0.1:0",
        "WORKER_SERVE": "127.0.0.1:0",
    }


@pytest.fixture
def imgclust_tagged(imgclust_redis: str) -> Iterator[Tagged]:
    """Writes tags into Redis; a later one of an id replaces the earlier."""
    offsets = itertools.count()
    with redis.Redis.from_url(imgclust_redis) as client:
        view = TagsView(client)

        def tagged(
            upload_id: str,
            cluster: int = 0,
            *,
            name: str | None = None,
            probability: float = 1.0,
            novel: bool = False,
            url: str | None = None,
            uploaded_at: int | None = None,
            attributes: dict[str, Attribute] | None = None,
            group: int | None = None,
        ) -> Tag:
            now = time.time_ns() // 1_000_000
            at = now if uploaded_at is None else uploaded_at
            tag = Tag(
                upload_id, cluster, name, probability, (), novel, MODEL, MODEL, url, at, now,
                attributes or {}, group=group,
            )  # fmt: skip
            view.apply([read_record(upload_id.encode(), tag.to_json(), 0, next(offsets), now)], {})
            return tag

        yield tagged
