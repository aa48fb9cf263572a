"""View, sweep, feed and commands over a Redis Cluster of six and over Sentinels, while a primary dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.integration.test_view_consumer import Running, Topic, fill
from tests.support.redis_server import RedisServer
from tests.support.redis_servers import RedisCluster, redis_cluster, sentinels
from tests.support.tag_records import apply, record
from tests.support.waiting import wait_for
from worker.commands import check
from worker.demo.backends import MockKafka
from worker.feed import AsyncFeed, Feed
from worker.settings.load import load
from worker.view.client import RedisTrouble, connect, connect_async
from worker.view.keys import Keys
from worker.view.store import Reached, Span, TagsView
from worker.view.sweep import ghosts, strays

pytestmark = [pytest.mark.redis, pytest.mark.slow]
KEYS = Keys()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with redis_cluster() as started:
        yield started


@pytest.fixture
def client(cluster: RedisCluster) -> Iterator[Any]:
    with contextlib.closing(connect(cluster.url, timeout=1.0)) as client:
        client.flushall()
        yield client


def now_ms(server: RedisServer) -> int:
    return int(server.client().time()[0]) * 1000


def cut_off(primary: RedisServer, replica: RedisServer) -> None:
    """The replica gets nothing any more, not even what would wait for it in a socket."""
    replica.freeze()
    primary.client().client_kill_filter(_type="replica")


def complete(feed: Feed, topic: Topic) -> bool:
    """Whether the feed shows what the topic says, by id and by cluster."""
    with contextlib.suppress(redis.RedisError):
        listed = {tag.id for tag in feed.latest([0, 1, 2], 1000).tags}
        return feed.get(topic.tags) == topic.tags and listed == set(topic.tags)
    return False


def asynchronously(url: str, ids: list[str]) -> int:
    """How many of these an AsyncFeed finds."""

    async def go() -> int:
        feed = AsyncFeed(connect_async(url, timeout=2.0))
        try:
            assert set(await feed.clusters()) == {0, 1, 2}
            return len(await feed.get(ids))
        finally:
            await feed.aclose()

    return asyncio.run(go())


def finding(url: str, name: str = "Redis") -> Any:
    settings = load({"WORKER_REDIS_URL": url})
    return next(found for found in check._redis(settings) if found.what == name)


def test_a_cluster_holds_it_all(cluster: RedisCluster, client: Any) -> None:
    """View, feeds and sweeps work over six servers, with keys on all primaries."""
    now = now_ms(cluster.servers[0])
    view, feed = TagsView(client), Feed(client)
    view.restart({0: Reached(0, now)})
    records = [record(f"id{n}", n, now, n % 3) for n in range(300)]
    assert view.apply(records, {0: Span(0, 300, now)}).reached == {0: 300}
    assert len(feed.get(f"id{n}" for n in range(300))) == 300
    assert {tag.id for tag in feed.latest(1, 300).tags} == {f"id{n}" for n in range(1, 300, 3)}
    assert asynchronously(cluster.url, [f"id{n}" for n in range(300)]) == 300
    assert sum(ghosts(client, KEYS, lambda _, offset: offset < 100)) == 100
    assert sum(strays(client, KEYS)) == 100
    assert all(server.client().dbsize() > 20 for server in cluster.servers)


def test_every_primary_has_marks(cluster: RedisCluster, client: Any) -> None:
    """With slots in equal parts each node knows how far it is: what it lost is noticed there."""
    homes = {client.get_node_from_key(mark).name for mark in KEYS.marks(spread=True)}
    assert len(homes) == len(client.get_primaries()) == 3


def test_a_failover_in_the_middle_loses_no_tag(cluster: RedisCluster, client: Any) -> None:
    """A primary dies with writes that its replica never saw, and which the view had committed. The view
    waits for the failover, notices what is missing, reads it again, and goes on."""
    with contextlib.ExitStack() as stack:
        topic = Topic(stack.enter_context(MockKafka()))
        stack.callback(topic.close)
        view = Running(topic, cluster, "classic")  # type: ignore[arg-type]
        view.start()
        stack.callback(view.stop)
        feed, runner = Feed(client), stack.enter_context(asyncio.Runner())
        waiting = AsyncFeed(connect_async(cluster.url, timeout=1.0))
        fill(topic)
        wait_for("the first tags", lambda: complete(feed, topic))
        assert runner.run(waiting.get(topic.tags)) == topic.tags
        primary = cluster.primary_of(KEYS.tag("id0"))
        replica = cluster.replica_of(primary)
        cut_off(primary, replica)
        fill(topic, 150, "late")
        wait_for("the late tags", lambda: complete(feed, topic) and topic.done())
        primary.kill()
        replica.thaw()
        fill(topic, 150, "after")
        wait_for("the failover", lambda: replica.client().info("replication")["role"] == "master")
        wait_for("all tags", lambda: complete(feed, topic))

        def also_waiting() -> bool:
            with contextlib.suppress(redis.RedisError):
                return runner.run(waiting.get(topic.tags)) == topic.tags
            return False

        wait_for("a feed of asyncio that was there before", also_waiting)
        runner.run(waiting.aclose())
        assert view.value("redis_up") == 1
        assert view.value("rebuilds_total") >= 1
    primary.start()
    wait_for("the cluster is whole", lambda: cluster.healthy(cluster.servers))


def test_a_node_that_does_not_answer_costs_one_timeout(cluster: RedisCluster, client: Any) -> None:
    """Of five hundred tags for a frozen primary not each waits: it is trouble after some seconds, and the
    same records are taken later."""
    now = now_ms(cluster.servers[0])
    view = TagsView(client)
    apply(view, record("a", 0, now))
    frozen = cluster.primary_of(KEYS.tag("id0"))
    records = [record(f"id{n}", n + 1, now) for n in range(500)]
    frozen.freeze()
    try:
        with pytest.raises(RedisTrouble) as caught:
            view.apply(records, {})
        assert caught.value.kind in ("timeout", "away")
    finally:
        frozen.thaw()

    def taken() -> bool:
        with contextlib.suppress(RedisTrouble):
            return view.apply(records, {}).written == 500
        return False

    wait_for("the same records", taken)


def test_check_says_what_redis_it_is(cluster: RedisCluster) -> None:
    """`check` writes to the cluster; with nobody there it says so."""
    assert finding(cluster.url).ok
    away = finding("redis+cluster://127.0.0.1:1")
    assert not away.ok
    assert "ConnectionError" in away.found


def test_sentinels_name_the_primary(tmp_path: Path) -> None:
    """View and feeds follow the Sentinels to a replica that takes over, with all that it missed."""
    with sentinels(tmp_path) as servers, MockKafka() as kafka:
        topic = Topic(kafka)
        view = Running(topic, servers, "classic")  # type: ignore[arg-type]
        view.start()
        feed = Feed(connect(servers.url, timeout=1.0))
        try:
            fill(topic)
            wait_for("the first tags", lambda: complete(feed, topic))
            assert finding(servers.url).ok
            primary, replica = servers.servers
            assert servers.primary() is primary
            cut_off(primary, replica)
            fill(topic, 100, "late")
            wait_for("the late tags", lambda: complete(feed, topic) and topic.done())
            primary.kill()
            replica.thaw()
            fill(topic, 100, "after")
            wait_for("the failover", lambda: servers.primary() is replica)
            wait_for("all tags", lambda: complete(feed, topic))
            assert asynchronously(servers.url, list(topic.tags)) == len(topic.tags)
            assert view.value("rebuilds_total") >= 1
        finally:
            view.stop()
            topic.close()
