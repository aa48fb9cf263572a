"""Redis users with exactly the rights that docs/redis.md names: everything works, and nothing is to spare."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.redis_server import RedisServer, running
from tests.support.redis_servers import RedisCluster, redis_cluster
from tests.support.tag_records import record
from worker.commands import check, explain, models, set_models
from worker.feed import AsyncFeed, Feed
from worker.kafka.scanner import Entry
from worker.settings.load import load
from worker.settings.settings import Settings
from worker.view.access import CLUSTER, USERS, rules
from worker.view.client import connect, connect_async
from worker.view.store import Reached, Span, TagsView
from worker.view.sweep import Sweeper, ghosts, strays

pytestmark = pytest.mark.redis
PREFIX = "imgclust:"
NOW = int(time.time() * 1000)


def view(settings: Settings, admin: Any) -> None:
    """Tags, changes, deletions, what is old; positions; both sweeps, each with something to remove."""
    client = connect(settings.redis_url)
    tags = TagsView(client, PREFIX)
    records = [record(f"id{n}", n, NOW, n % 3) for n in range(20)]
    tags.restart({0: Reached(0, NOW)})
    tags.apply(records, {0: Span(0, 20, NOW)})
    tags.apply([record("id1", 20, NOW, 2), record("id2", 21, NOW, None), record("id3", 1, NOW)], {})
    assert tags.reached([0])[0].offset == 20
    admin.zadd(f"{PREFIX}t1:cluster:1", {"nobody": 1.0})
    assert sum(strays(client, tags.keys)) == 1
    assert sum(ghosts(client, tags.keys, lambda _, offset: offset == 4)) == 1
    Sweeper(client, tags.keys, time.monotonic).step()
    client.close()


def operators(settings: Settings, admin: Any) -> None:
    """`check`, `explain`, `models`, `models promote`."""
    (finding,) = check._redis(settings)
    assert finding.ok, finding
    tag = Entry("tags", 0, 7, NOW, b"id7", b"{}", {})
    assert explain.in_view(settings, "id7", [tag])["state"] == "there"
    assert models._feeds(settings) == {"taxonomy": "t1", "reads": "read taxonomy t1"}
    assert set_models.promote(settings, "t1") == 0


def readers(settings: Settings, admin: Any) -> None:
    """Every read of a feed, blocking and with asyncio."""
    feed = Feed(connect(settings.redis_url), PREFIX)
    assert set(feed.get(["id7", "id8"])) == {"id7", "id8"}
    assert set(feed.clusters()) == {0, 1, 2}
    assert feed.latest(1).tags
    assert feed.latest(without=[1]).tags
    assert feed.overview()
    assert feed.taxonomy() == "t1"
    assert connect(settings.redis_url).hget(f"{PREFIX}tag:id7", "tag"), (
        "as the page has it for other languages"
    )

    async def read() -> None:
        client = connect_async(settings.redis_url)
        feed = AsyncFeed(client, PREFIX)
        assert await feed.clusters()
        await feed.aclose()

    asyncio.run(read())


PROGRAMS: dict[str, Callable[[Settings, Any], None]] = {
    "view": view, "operators": operators, "readers": readers,
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running() as started:
        yield started


def used(admin: Any) -> set[str]:
    """Commands that were called since the last reset, also by scripts."""
    return {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}


def test_each_user_needs_exactly_its_rights(server: RedisServer) -> None:
    """Nothing is refused, and every right is used: SELECT by a URL that names a database."""
    admin = server.client(db=1)
    for user, (_, commands) in USERS.items():
        admin.execute_command("ACL", "SETUSER", user, "on", ">pw", *rules(commands, PREFIX))
        url = f"redis://{user}:pw@127.0.0.1:{server.port}/1"
        admin.config_resetstat()
        PROGRAMS[user](load({"WORKER_REDIS_URL": url}), admin)
        refused = {entry["object"] for entry in admin.acl_log()} - {"client|setinfo"}
        assert not refused, user
        assert commands - used(admin) == set(), user


@contextlib.contextmanager
def _with_user(cluster: RedisCluster, user: str, commands: frozenset[str]) -> Iterator[str]:
    for server in cluster.servers:
        setuser = ("ACL", "SETUSER", user, "on", ">pw", *rules(commands, PREFIX))
        server.client().execute_command(*setuser)
    yield cluster.url.replace("redis+cluster://", f"redis+cluster://{user}:pw@")


@pytest.mark.slow
def test_each_user_needs_these_rights_on_a_cluster() -> None:
    """With the commands that find out who has which slots: a client asks any one of the servers."""
    with redis_cluster(replicas=0) as cluster:
        for user, (_, commands) in USERS.items():
            with _with_user(cluster, user, (commands - {"select"}) | CLUSTER) as url:
                PROGRAMS[user](load({"WORKER_REDIS_URL": url}), cluster.client())
        assert frozenset().union(*(used(server.client()) for server in cluster.servers)) >= CLUSTER
        for server in cluster.servers:
            refused = {entry["object"] for entry in server.client().acl_log()} - {"client|setinfo"}
            assert not refused
